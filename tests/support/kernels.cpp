// The one unit of the test programs that compiles the kernels; see heed/simd/dispatch.hpp.
#define HEED_IMPLEMENTATION
#include "heed/simd/layer_dispatch.hpp"
#include "heed/simd/weight_dispatch.hpp"
