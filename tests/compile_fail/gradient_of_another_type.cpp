// expect: the gradient must be writable and have the type and shape of what it is the
#include <heed/heed.hpp>

#ifdef MISTAKE
using Gradient = heed::TensorView<double, 4>;
#else
using Gradient = heed::TensorView<float, 4>;
#endif

auto part(heed::TensorView<const float, 4> bias, Gradient gradient) {
    return heed::AdditiveBias{bias}.with_gradient(gradient);
}
