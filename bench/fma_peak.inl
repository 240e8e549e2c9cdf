// How does one instruction set multiply and add?
// No #pragma once: for_each_isa.inl includes it once for each instruction set.

template <class T>
struct PackOf {
    typedef T type __attribute__((vector_size(HEED_VECTOR_BYTES)));
};

/// As many as the registers hold beside the operands, and a product where no instruction fuses it
/// with the sum.
constexpr int chains = HEED_VECTOR_REGISTERS == 32 ? 24 : HEED_VECTOR_BYTES == 32 ? 14 : 12;

/// sum += factor * term, `rounds` times in each of chains registers: more chains than a
/// multiply-add has cycles, so that none waits for itself. Returns a number that depends on all.
template <class T>
T multiply_add(long rounds, const Numbers<T>& numbers) {
    using Pack = typename PackOf<T>::type;
    Pack factor = numbers.factor - Pack{};
    const Pack term = numbers.term - Pack{};
    Pack sum[chains];
    // Equal chains would be computed once.
#pragma GCC unroll 32
    for (int c = 0; c < chains; ++c) sum[c] = numbers.start[c] - Pack{};
    for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 32
        for (int c = 0; c < chains; ++c) {
            BENCH_MAY_CHANGE(factor);
            sum[c] = sum[c] + factor * term;
        }
    Pack all{};
    for (int c = 0; c < chains; ++c) all += sum[c];
    T total = 0;
    for (unsigned lane = 0; lane < sizeof(Pack) / sizeof(T); ++lane) total += all[lane];
    return total;
}

template <class T>
constexpr Probe<T> probe = {multiply_add<T>, 2.0 * chains* HEED_VECTOR_BYTES / sizeof(T)};
