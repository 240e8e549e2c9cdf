#pragma once
// What is computed, and how much work is it?
// Sizes and the interfaces that every contender implements; knows neither heed nor Eigen.

#include <algorithm>
#include <cstddef>

#include "size.hpp"

namespace bench {

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
    /// Of the way back: five products, of which one computes the scores anew.
    [[nodiscard]] double backward_flops() const { return 2.5 * flops(); }

    /// Calls visit(name, value) with what tells it from other problems.
    template <class Visit>
    void for_each_argument(const Visit& visit) const {
        visit("B", B);
        visit("H", H);
        visit("Lq", Lq);
        visit("Lk", Lk);
        visit("D", D);
        visit("causal", causal ? 1 : 0);
        if (window > 0) visit("window", window);
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

/// Which bias is added to the scores?
enum class Bias {
    none,
    t5,    ///< T5's table of relative positions [t5_buckets, H], for both directions
    full,  ///< a number for each score [H,Lq,Lk]
};
inline constexpr Size t5_buckets = 32, t5_max_distance = 128;

template <class T>
struct BiasTensors {
    Bias kind = Bias::none;
    const T* values = nullptr;
    T* gradient = nullptr;  ///< null: not wanted

    /// Of a bias of this kind.
    [[nodiscard]] static Size count(const Problem& p, Bias kind) {
        return kind == Bias::none ? 0 : p.H * (kind == Bias::t5 ? t5_buckets : p.Lq * p.Lk);
    }
};

/// What the way back reads and writes, contiguous; lse is [B,H,Lq], all others are as in Problem.
/// out and lse are left by the forward pass of those who need them.
template <class T>
struct BackwardTensors {
    const T *q, *k, *v, *d_out;
    T *out, *lse;
    T *dq, *dk, *dv;
    BiasTensors<T> bias = {};
};

/// One way to compute gradients. Its construction is the forward pass, which leaves what this way
/// needs.
class BackwardPass {
  public:
    virtual ~BackwardPass() = default;
    virtual void run() = 0;
    [[nodiscard]] virtual std::size_t scratch_bytes() const = 0;
};

}  // namespace bench
