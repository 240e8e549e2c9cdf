// heed as a shared object with C functions, so that Python can run it beside other libraries.
// Reads and writes the caller's arrays; every error becomes a return code and a message.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "../fma_peak.hpp"
#include "heed/heed.hpp"

namespace {

thread_local std::string last_error;

/// 0 when the work is done, 1 when it threw; the message is then in last_error.
template <class Work>
int status_of(const Work& work) noexcept {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        last_error = error.what();
    } catch (...) {
        last_error = "unknown error";
    }
    return 1;
}

}  // namespace

// Nothing else leaves the shared object: neighbours in the process may hold another Eigen.
#pragma GCC visibility push(default)
extern "C" {

/// Threads and scratch memory that calls share; serves one call at a time.
struct HeedPeer {
    explicit HeedPeer(int threads) : pool(threads) {}

    heed::ThreadPool pool;
    std::vector<std::byte> workspace;
};

/// out = softmax(q k^T / sqrt(D)) v on contiguous [B,H,L,D]; `causal`: query i sees keys up to i.
struct HeedPeerProblem {
    const float *q, *k, *v;
    float* out;
    std::int64_t B, H, L, D;
    std::int32_t causal;
};

/// What the last failed call of this thread had to say.
const char* heed_peer_last_error() {
    return last_error.c_str();
}

/// Name of the instruction set in use, or null on failure.
const char* heed_peer_isa() {
    const char* name = nullptr;
    status_of([&] { name = heed::isa_name(heed::current_isa()).data(); });
    return name;
}

/// A peer with this many threads, the caller's included, or null on failure.
HeedPeer* heed_peer_open(std::int32_t threads) {
    HeedPeer* peer = nullptr;
    status_of([&] { peer = new HeedPeer(threads); });
    return peer;
}

void heed_peer_close(HeedPeer* peer) {
    delete peer;
}

/// Returns 0, or 1 on failure.
int heed_peer_attention(HeedPeer* peer, const HeedPeerProblem* problem) {
    return status_of([&] {
        const auto& [q, k, v, out, B, H, L, D, causal] = *problem;
        const heed::Shape<4> shape(B, H, L, D);
        const heed::TensorView<const float, 4> queries(q, shape), keys(k, shape), values(v, shape);
        const std::size_t needed =
            heed::attention_workspace_bytes<float>({.batch = B,
                                                    .heads = H,
                                                    .kv_heads = H,
                                                    .q_len = L,
                                                    .kv_len = L,
                                                    .head_dim = D,
                                                    .value_dim = D},
                                                   false, peer->pool.concurrency());
        if (peer->workspace.size() < needed) peer->workspace.resize(needed);
        const auto attend = [&](const auto& mask) {
            heed::scaled_dot_product_attention(
                queries, keys, values, heed::TensorView<float, 4>(out, shape), mask,
                {.executor = peer->pool, .workspace = peer->workspace});
        };
        if (causal != 0)
            attend(heed::Causal::top_left());
        else
            attend(heed::NoMask{});
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
