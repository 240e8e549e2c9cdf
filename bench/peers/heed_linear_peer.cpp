// C functions around heed::Linear, a product of a layer.

#include "heed_peer.hpp"

/// A product and its gradients; serves one call at a time.
struct HeedPeerLinear {
    int threads;
    heed::Linear<float> linear;
    heed::Linear<float> gradients;
};

namespace {

using namespace heed_peer;

/// Some rows of the inputs or of the outputs.
template <class T>
heed::TensorView<T, 2> rows_of(T* data, heed::Index rows, heed::Index columns) {
    return {data, {rows, columns}};
}

void multiply(HeedPeerLinear& peer, const float* x, float* y, heed::Index rows) {
    use_threads(peer.threads);
    const heed::Linear<float>& linear = peer.linear;
    linear.forward<2>(rows_of(x, rows, linear.in_features()),
                      rows_of(y, rows, linear.out_features()));
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

/// A product with the weights of torch.nn.Linear, under their names there, or null on failure.
HeedPeerLinear* heed_peer_linear_open(std::int32_t threads, std::int64_t inputs,
                                      std::int64_t outputs, const HeedPeerTensor* weights,
                                      std::int64_t weight_count) {
    return made_by([&] {
        heed::Linear<float> linear({.in_features = inputs, .out_features = outputs});
        linear.load(named_tensors(weights, weight_count));
        return new HeedPeerLinear{threads, linear, linear.make_gradients()};
    });
}

void heed_peer_linear_close(HeedPeerLinear* peer) {
    delete peer;
}

/// y [rows, outputs] of x [rows, inputs]. Returns 0, or 1 on failure.
int heed_peer_linear_forward(HeedPeerLinear* peer, const float* x, float* y, std::int64_t rows) {
    return status_of([&] { multiply(*peer, x, y, rows); });
}

/// The same and the way back from dy: writes dx, and the gradients of the weights anew. Returns 0,
/// or 1 on failure.
int heed_peer_linear_training(HeedPeerLinear* peer, const float* x, float* y, const float* dy,
                              float* dx, std::int64_t rows) {
    return status_of([&] {
        multiply(*peer, x, y, rows);
        const heed::Linear<float>& linear = peer->linear;
        peer->gradients.fill_parameters(0);
        linear.backward<2>(rows_of(x, rows, linear.in_features()),
                           rows_of(dy, rows, linear.out_features()),
                           rows_of(dx, rows, linear.in_features()), peer->gradients);
    });
}

/// Shows the gradients of the last training. Returns 0, or 1 on failure.
int heed_peer_linear_gradients(const HeedPeerLinear* peer, HeedPeerVisitor visit) {
    return status_of([&] { show_parameters(peer->gradients, visit); });
}

}  // extern "C"
#pragma GCC visibility pop
