#pragma once
// What does a snippet of the documentation find already there?
// The names that the text around it speaks of; they are declared for compiling, never run.

#include <heed/heed.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <span>
#include <string>
#include <vector>

namespace readme {

inline const heed::Index B = 2, H = 4, Hk = 2, Lq = 5, Lk = 5, L = 5, D = 8, Dv = 8, E = 32;
inline heed::Tensor<float, 4> q({B, H, Lq, D}), k({B, Hk, Lk, D}), v({B, Hk, Lk, Dv});
inline heed::Tensor<float, 3> x({B, L, E});

}  // namespace readme
