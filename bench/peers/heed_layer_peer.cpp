// C functions around heed::MultiHeadAttention, the layer with its projections.

#include "heed_peer.hpp"

/// A layer in evaluation or in training; serves one call at a time.
struct HeedPeerLayer {
    int threads;
    heed::MultiHeadAttention<float> attention;
    heed::MultiHeadAttention<float> gradients;
};

namespace {

using namespace heed_peer;

HeedPeerLayer* make_layer(int threads, heed::Index embed_dim, heed::Index heads,
                          const heed::NamedTensors& weights, bool training) {
    heed::MultiHeadAttention<float> attention(
        heed::PyTorchMultiheadAttention{.embed_dim = embed_dim, .num_heads = heads});
    attention.load(weights);
    attention.train(training);
    return new HeedPeerLayer{threads, attention, attention.make_gradients()};
}

/// Of the input, the output and their gradients.
heed::Shape<3> shape_of(const HeedPeerLayer& layer, heed::Index batch, heed::Index length) {
    return {batch, length, layer.attention.options().embed_dim};
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

/// A layer with the weights of torch.nn.MultiheadAttention, under their names there, or null on
/// failure.
HeedPeerLayer* heed_peer_layer_open(std::int32_t threads, std::int64_t embed_dim,
                                    std::int64_t heads, const HeedPeerTensor* weights,
                                    std::int64_t weight_count, std::int32_t training) {
    return made_by([&] {
        return make_layer(threads, embed_dim, heads, named_tensors(weights, weight_count),
                          training != 0);
    });
}

void heed_peer_layer_close(HeedPeerLayer* layer) {
    delete layer;
}

/// Self-attention of x [batch, length, embed_dim]; out has its shape. Returns 0, or 1 on failure.
int heed_peer_layer_forward(HeedPeerLayer* layer, const float* x, float* out, std::int64_t batch,
                            std::int64_t length) {
    return status_of([&] {
        use_threads(layer->threads);
        const heed::Shape<3> shape = shape_of(*layer, batch, length);
        const heed::TensorView<const float, 3> in(x, shape);
        layer->attention.forward(in, in, in, {out, shape});
    });
}

/// The same and the way back from d_out: writes dx, and the gradients of all weights anew. Needs a
/// layer in training. Returns 0, or 1 on failure.
int heed_peer_layer_training(HeedPeerLayer* layer, const float* x, float* out, const float* d_out,
                             float* dx, std::int64_t batch, std::int64_t length) {
    return status_of([&] {
        use_threads(layer->threads);
        const heed::Shape<3> shape = shape_of(*layer, batch, length);
        const heed::TensorView<const float, 3> in(x, shape);
        layer->attention.forward(in, in, in, {out, shape});
        layer->gradients.fill_parameters(0);
        layer->attention.backward(in, {d_out, shape}, {dx, shape}, layer->gradients);
    });
}

/// Shows the gradients of the last training. Returns 0, or 1 on failure.
int heed_peer_layer_gradients(const HeedPeerLayer* layer, HeedPeerVisitor visit) {
    return status_of([&] { show_parameters(layer->gradients, visit); });
}

}  // extern "C"
#pragma GCC visibility pop
