#include "attend.hpp"

heed::Tensor<float, 4> attend(const heed::Tensor<float, 4>& tokens) {
    return heed::scaled_dot_product_attention(tokens, tokens, tokens, heed::Causal::top_left());
}
