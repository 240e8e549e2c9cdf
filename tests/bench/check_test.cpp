// Does the benches' check accept what is right, and nothing else? Are their FLOPs the visible ones?

#include "../../bench/check.hpp"

#include <gtest/gtest.h>

#include "../../bench/plain_eigen.hpp"

namespace {

using bench::Problem;
using bench::Size;

/// Random inputs of a problem, and what plain Eigen makes of them.
template <class T>
struct Computed {
    explicit Computed(const Problem& problem, const Problem& computed)
        : p(problem),
          q(random.normals<T>(static_cast<std::size_t>(p.query_count()))),
          k(random.normals<T>(static_cast<std::size_t>(p.key_count()))),
          v(random.normals<T>(static_cast<std::size_t>(p.key_count()))),
          out(q.size()) {
        bench::PlainEigen<T>(computed).run(q.data(), k.data(), v.data(), out.data());
    }
    explicit Computed(const Problem& problem) : Computed(problem, problem) {}

    [[nodiscard]] bool is_right() const {
        return bench::check_attention(p, q.data(), k.data(), v.data(), out.data()).ok;
    }

    support::Random random;
    Problem p;
    std::vector<T> q, k, v, out;
};

const Problem full{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16};
const Problem causal{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16, .causal = true};
const Problem window{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16, .causal = true, .window = 8};

TEST(BenchCheck, AcceptsPlainEigen) {
    for (const Problem& p : {full, causal, window}) {
        EXPECT_TRUE(Computed<float>(p).is_right());
        EXPECT_TRUE(Computed<double>(p).is_right());
    }
}

TEST(BenchCheck, RefusesAnotherMask) {
    Problem wider = window;
    wider.window += 1;
    EXPECT_FALSE(Computed<float>(causal, full).is_right());
    EXPECT_FALSE(Computed<float>(causal, window).is_right());
    EXPECT_FALSE(Computed<float>(window, wider).is_right());
}

TEST(BenchCheck, RefusesOneWrongElementInAnyHead) {
    Computed<float> computed(causal);
    for (Size head = 0; head < causal.B * causal.H; ++head) {
        float& element = computed.out[static_cast<std::size_t>((head + 1) * 40 * 16 - 1)];
        const float right = element;
        element += 1e-4f;
        EXPECT_FALSE(computed.is_right()) << "head " << head;
        element = right;
    }
    EXPECT_TRUE(computed.is_right());
}

TEST(BenchProblem, CountsVisiblePairs) {
    const auto pairs = [](Size Lq, Size Lk, bool is_causal, Size keys) {
        return Problem{.Lq = Lq, .Lk = Lk, .causal = is_causal, .window = keys}.visible_pairs();
    };
    EXPECT_EQ(pairs(3, 5, false, 0), 15);
    EXPECT_EQ(pairs(4, 4, true, 0), 10);  // 1 + 2 + 3 + 4
    EXPECT_EQ(pairs(4, 4, true, 2), 7);   // 1 + 2 + 2 + 2
    EXPECT_EQ(pairs(4, 2, true, 0), 7);   // 1 + 2 + 2 + 2
    EXPECT_EQ((Problem{.B = 2, .H = 3, .Lq = 4, .Lk = 4, .D = 8, .causal = true}.flops()),
              4 * 2 * 3 * 8 * 10);
}

}  // namespace
