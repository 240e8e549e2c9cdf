// expect: the gradient through a score function needs its derivative
#include <heed/heed.hpp>

struct Tilt {
#ifdef MISTAKE
    float operator()(float score, heed::ScoreIndex at) const {
        return score - 0.1f * static_cast<float>(at.q - at.k);
    }
#else
    auto operator()(auto score, heed::ScoreIndex at) const {
        return score - 0.1f * static_cast<float>(at.q - at.k);
    }
#endif
};

void gradients(heed::TensorView<float, 4> x, heed::TensorView<float, 3> lse) {
    heed::scaled_dot_product_attention_backward(x, x, x, x, lse, x, {.dq = x}, Tilt{});
}
