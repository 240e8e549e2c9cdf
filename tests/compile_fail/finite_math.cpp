// expect: heed does not work under -ffast-math: add -fno-finite-math-only
// flags: -O2 -ffast-math
#include <heed/heed.hpp>
