#pragma once
// What is computed, and how much work is it?
// Sizes and the interface that every contender implements; knows neither heed nor Eigen.

#include <algorithm>
#include <cstddef>

namespace bench {

using Size = std::ptrdiff_t;

/// Attention with contiguous q [B,H,Lq,D], k and v [B,H,Lk,D]. When causal, query i sees the keys
/// up to i; with a window, of those only the last so many.
struct Problem {
    Size B = 1, H = 12, Lq = 512, Lk = 512, D = 64;
    bool causal = false;
    Size window = 0;  ///< 0: all; otherwise causal must be set

    [[nodiscard]] Size first_key(Size i) const {
        return window == 0 ? 0 : std::max<Size>(0, i + 1 - window);
    }
    [[nodiscard]] Size end_key(Size i) const { return causal ? std::min(i + 1, Lk) : Lk; }

    [[nodiscard]] double visible_pairs() const {
        Size pairs = 0;
        for (Size i = 0; i < Lq; ++i) pairs += std::max<Size>(0, end_key(i) - first_key(i));
        return static_cast<double>(pairs);
    }
    /// Of both products, over visible pairs of query and key alone.
    [[nodiscard]] double flops() const {
        return 4.0 * static_cast<double>(B * H * D) * visible_pairs();
    }

    [[nodiscard]] Size query_count() const { return B * H * Lq * D; }
    [[nodiscard]] Size key_count() const { return B * H * Lk * D; }
};

/// One way to compute the attention of a problem. Its scratch memory is allocated, and touched, at
/// construction.
template <class T>
class Attention {
  public:
    virtual ~Attention() = default;
    virtual void run(const T* q, const T* k, const T* v, T* out) = 0;
    [[nodiscard]] virtual std::size_t scratch_bytes() const = 0;
};

}  // namespace bench
