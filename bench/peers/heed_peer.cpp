// heed as a shared object with C functions, so that Python can run it beside other libraries.
// Reads and writes the caller's arrays; every error becomes a return code and a message.
// Attention is here, modules are in the files beside this one.

#include "heed_peer.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "../fma_peak.hpp"

/// Threads and scratch memory that calls share; serves one call at a time.
struct HeedPeer {
    explicit HeedPeer(int threads) : pool(threads) {}

    heed::ThreadPool pool;
    std::vector<std::byte> workspace;
    std::vector<float> lse;
};

/// out = softmax(q k^T / sqrt(D)) v on contiguous [B,H,L,D]; `causal`: query i sees keys up to i.
struct HeedPeerProblem {
    const float *q, *k, *v;
    float* out;
    std::int64_t B, H, L, D;
    std::int32_t causal;
};

/// Of the output, and of q, k and v; contiguous [B,H,L,D].
struct HeedPeerGradients {
    const float* d_out;
    float *dq, *dk, *dv;
};

namespace {

using namespace heed_peer;

/// `memory`, made larger where it does not have so many elements.
template <class T>
std::vector<T>& at_least(std::vector<T>& memory, std::size_t count) {
    if (memory.size() < count) memory.resize(count);
    return memory;
}

heed::Shape<4> shape_of(const HeedPeerProblem& p) {
    return {p.B, p.H, p.L, p.D};
}
heed::AttentionShape sizes_of(const HeedPeerProblem& p) {
    return {.batch = p.B,
            .heads = p.H,
            .kv_heads = p.H,
            .q_len = p.L,
            .kv_len = p.L,
            .head_dim = p.D,
            .value_dim = p.D};
}

heed::TensorView<float, 3> lse_of(HeedPeer& peer, const HeedPeerProblem& p) {
    const heed::Shape<3> shape(p.B, p.H, p.L);
    return {at_least(peer.lse, static_cast<std::size_t>(p.B * p.H * p.L)).data(), shape};
}

template <class Visit>
void with_mask(const HeedPeerProblem& p, const Visit& visit) {
    if (p.causal != 0)
        visit(heed::Causal::top_left());
    else
        visit(heed::NoMask{});
}

template <class Mask>
void attend(HeedPeer& peer, const HeedPeerProblem& p, const Mask& mask,
            heed::TensorView<float, 3> lse = {}) {
    using Input = heed::TensorView<const float, 4>;
    const heed::Shape<4> shape = shape_of(p);
    const std::size_t needed =
        heed::attention_workspace_bytes<float>(sizes_of(p), false, peer.pool.concurrency());
    heed::scaled_dot_product_attention(
        Input(p.q, shape), Input(p.k, shape), Input(p.v, shape),
        heed::TensorView<float, 4>(p.out, shape), mask,
        {.lse = lse, .executor = peer.pool, .workspace = at_least(peer.workspace, needed)});
}

template <class Mask>
void go_back(HeedPeer& peer, const HeedPeerProblem& p, const HeedPeerGradients& gradients,
             const Mask& mask, heed::TensorView<const float, 3> lse) {
    using Input = heed::TensorView<const float, 4>;
    using Output = heed::TensorView<float, 4>;
    const heed::Shape<4> shape = shape_of(p);
    const auto& [d_out, dq, dk, dv] = gradients;
    const std::size_t needed =
        heed::attention_backward_workspace_bytes<float>(sizes_of(p), mask, peer.pool.concurrency());
    heed::scaled_dot_product_attention_backward(
        Input(p.q, shape), Input(p.k, shape), Input(p.v, shape), Input(p.out, shape), lse,
        Input(d_out, shape),
        {.dq = Output(dq, shape), .dk = Output(dk, shape), .dv = Output(dv, shape)}, mask,
        {.executor = peer.pool, .workspace = at_least(peer.workspace, needed)});
}

}  // namespace

// Nothing else leaves the shared object: neighbours in the process may hold another Eigen.
#pragma GCC visibility push(default)
extern "C" {

/// What the last failed call of this thread had to say.
const char* heed_peer_last_error() {
    return last_error.c_str();
}

/// Name of the instruction set in use, or null on failure.
const char* heed_peer_isa() {
    return made_by([] { return heed::isa_name(heed::current_isa()).data(); });
}

/// A peer with this many threads, the caller's included, or null on failure.
HeedPeer* heed_peer_open(std::int32_t threads) {
    return made_by([&] { return new HeedPeer(threads); });
}

void heed_peer_close(HeedPeer* peer) {
    delete peer;
}

/// Returns 0, or 1 on failure.
int heed_peer_attention(HeedPeer* peer, const HeedPeerProblem* problem) {
    return status_of(
        [&] { with_mask(*problem, [&](const auto& mask) { attend(*peer, *problem, mask); }); });
}

/// The same and then the way back, which writes dq, dk and dv. Returns 0, or 1 on failure.
int heed_peer_training(HeedPeer* peer, const HeedPeerProblem* problem,
                       const HeedPeerGradients* gradients) {
    return status_of([&] {
        with_mask(*problem, [&](const auto& mask) {
            const heed::TensorView<float, 3> lse = lse_of(*peer, *problem);
            attend(*peer, *problem, mask, lse);
            go_back(*peer, *problem, *gradients, mask, lse);
        });
    });
}

/// Multiply-adds on float that the peer's threads reach together over so many seconds, in FLOP/s:
/// of one thread in its CPU time, of several by the wall clock. Returns 0, or 1 on failure.
int heed_peer_fma_peak(HeedPeer* peer, double seconds, double* flops_per_second) {
    return status_of([&] {
        const int threads = peer->pool.concurrency();
        const bench::Clock clock = threads == 1 ? bench::cpu_seconds : bench::wall_seconds;
        std::vector<double> peaks(static_cast<std::size_t>(threads));
        peer->pool.parallel_for(threads, [&](heed::Index i, int) {
            peaks[static_cast<std::size_t>(i)] =
                bench::fma_peak<float>(heed::current_isa(), seconds, clock);
        });
        *flops_per_second = 0;
        for (double peak : peaks) *flops_per_second += peak;
    });
}

}  // extern "C"
#pragma GCC visibility pop
