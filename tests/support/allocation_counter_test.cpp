// Does the counter see every form of operator new, and nothing else?

#include "support/allocation_counter.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HEED_TEST_SANITIZED 1
#elif defined(__has_feature)
#define HEED_TEST_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define HEED_TEST_SANITIZED 0
#endif

namespace {

using support::AllocationCounter;

// Called directly, operator new is never optimised away, as a new-expression may be.
TEST(AllocationCounter, SeesEveryForm) {
    const AllocationCounter counter;
    const std::align_val_t aligned{64};
    operator delete(operator new(8));
    operator delete[](operator new[](8));
    operator delete(operator new(8, std::nothrow));
    operator delete[](operator new[](8, std::nothrow));
    operator delete(operator new(8, aligned), aligned);
    operator delete[](operator new[](8, aligned), aligned);
    operator delete(operator new(8, aligned, std::nothrow), aligned);
    operator delete[](operator new[](8, aligned, std::nothrow), aligned);
    const std::size_t count = counter.count(), bytes = counter.bytes();
    EXPECT_EQ(count, 8u);
    EXPECT_EQ(bytes, 64u);
}

TEST(AllocationCounter, SeesContainersAndThreads) {
    const AllocationCounter vectors;
    std::vector<int> values(100);
    EXPECT_EQ(vectors.count(), 1u);
    EXPECT_EQ(vectors.bytes(), 100 * sizeof(int));
    const AllocationCounter threads;
    std::thread([&values] { values = std::vector<int>(50); }).join();
    EXPECT_GE(threads.count(), 1u);
}

TEST(AllocationCounter, CountsNothingWhereNothingIsAllocated) {
    std::vector<int> values(100);
    const AllocationCounter counter;
    values.assign(50, 7);
    const std::size_t count = counter.count();
    EXPECT_EQ(count, 0u);
}

TEST(AllocationCounter, MemoryIsAlignedAsAsked) {
    for (std::size_t alignment : {32u, 64u, 4096u}) {
        const std::align_val_t wanted{alignment};
        void* memory = operator new(1, wanted);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % alignment, 0u);
        operator delete(memory, wanted);
    }
}

TEST(AllocationCounter, ImpossibleSizesThrow) {
#if HEED_TEST_SANITIZED
    GTEST_SKIP() << "a sanitizer ends the program instead of returning null";
#endif
    const std::size_t impossible = PTRDIFF_MAX;
    EXPECT_THROW(operator delete(operator new(impossible)), std::bad_alloc);
    const std::align_val_t aligned{64};
    EXPECT_THROW(operator delete(operator new(impossible, aligned), aligned), std::bad_alloc);
    EXPECT_EQ(operator new(impossible, std::nothrow), nullptr);
}

}  // namespace
