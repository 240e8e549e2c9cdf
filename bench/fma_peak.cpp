// Measures multiply-adds with each instruction set, whatever flags this unit is compiled with.

#include "fma_peak.hpp"

namespace bench {
namespace {

// Makes the compiler believe that a register has changed, so that a product of it is computed
// again. Costs no instruction.
#if defined(__aarch64__)
#define BENCH_MAY_CHANGE(pack) __asm__("" : "+w"(pack))
#else
#define BENCH_MAY_CHANGE(pack) __asm__("" : "+x"(pack))
#endif

constexpr int most_chains = 24;

/// Operands that the compiler must not see through. The sums grow slowly, and stay normal numbers.
template <class T>
struct Numbers {
    volatile T hidden = T(0.001);
    T factor = hidden, term = hidden;
    T start[most_chains];

    Numbers() {
        for (int c = 0; c < most_chains; ++c) start[c] = hidden + static_cast<T>(c);
    }
};

template <class T>
struct Probe {
    T (*run)(long rounds, const Numbers<T>& numbers);
    double flops_per_round;
};

#define HEED_KERNEL_TEXT "fma_peak.inl"
#include "heed/simd/for_each_isa.inl"
#undef HEED_KERNEL_TEXT

template <class T>
const Probe<T>& probe_of(heed::Isa isa) {
#if HEED_HAS_X86_KERNELS
    if (isa == heed::Isa::avx512) return avx512::probe<T>;
    if (isa == heed::Isa::avx2) return avx2::probe<T>;
#endif
    static_cast<void>(isa);
    return baseline::probe<T>;
}

}  // namespace

template <class T>
double fma_peak(heed::Isa isa, double seconds, Clock clock) {
    const Probe<T>& probe = probe_of<T>(isa);
    const Numbers<T> numbers;
    [[maybe_unused]] volatile T sink{};
    // Some tenths of a millisecond at a time: asking for CPU time takes a microsecond.
    constexpr long rounds = 1 << 17;
    double flops = 0, elapsed = 0;
    const double begin = clock();
    do {
        sink = probe.run(rounds, numbers);
        flops += static_cast<double>(rounds) * probe.flops_per_round;
        elapsed = clock() - begin;
    } while (elapsed < seconds);
    return flops / elapsed;
}

template double fma_peak<float>(heed::Isa isa, double seconds, Clock clock);
template double fma_peak<double>(heed::Isa isa, double seconds, Clock clock);

}  // namespace bench
