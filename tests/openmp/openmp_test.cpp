// heed on the OpenMP threads of a program; this test alone is compiled with OpenMP.
#include "heed/base/openmp.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <new>
#include <vector>

#include "heed/heed.hpp"

namespace {

using heed::Index;
using heed::OpenMpExecutor;
using heed::Tensor;

TEST(OpenMp, RunsEachIndexOnce) {
    OpenMpExecutor executor;
    ASSERT_GE(executor.concurrency(), 1);
    std::vector<int> runs(1000);
    executor.parallel_for(1000, [&](Index i, int worker) {
        EXPECT_LT(worker, executor.concurrency());
        ++runs[static_cast<std::size_t>(i)];
    });
    for (int count : runs) EXPECT_EQ(count, 1);
}

TEST(OpenMp, ExceptionReachesTheCaller) {
    OpenMpExecutor executor;
    EXPECT_THROW(executor.parallel_for(50,
                                       [](Index i, int) {
                                           if (i % 7 == 3) throw std::bad_alloc();
                                       }),
                 std::bad_alloc);
}

// Museum B7 62 and 65: same bits as on the caller's thread, also inside a parallel region.
TEST(Museum, B7_65_InsideAParallelRegion) {
    OpenMpExecutor executor;
    Tensor<float, 4> q({1, 4, 150, 32}), k({1, 4, 150, 32}), v({1, 4, 150, 32});
    heed::fill_normal(q.view(), 1);
    heed::fill_normal(k.view(), 2);
    heed::fill_normal(v.view(), 3);
    const auto expected =
        heed::scaled_dot_product_attention(q, k, v, heed::NoMask{}, {.executor = heed::serial});
    const auto equal = [&](const Tensor<float, 4>& out) {
        return std::memcmp(out.data(), expected.data(), out.values().size_bytes()) == 0;
    };
    EXPECT_TRUE(
        equal(heed::scaled_dot_product_attention(q, k, v, heed::NoMask{}, {.executor = executor})));
    int different = 0;
#pragma omp parallel num_threads(3) reduction(+ : different)
    different +=
        equal(heed::scaled_dot_product_attention(q, k, v, heed::NoMask{}, {.executor = executor}))
            ? 0
            : 1;
    EXPECT_EQ(different, 0);
}

}  // namespace
