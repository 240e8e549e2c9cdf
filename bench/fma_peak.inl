// How does one instruction set multiply and add? Included by fma_peak.cpp once for each of them,
// with BENCH_VECTOR_BYTES and BENCH_CHAINS defined, inside a namespace and target region of its
// own.

template <class T>
struct PackOf {
    typedef T type __attribute__((vector_size(BENCH_VECTOR_BYTES)));
};

/// sum += factor * term, `rounds` times in each of BENCH_CHAINS registers: more chains than a
/// multiply-add has cycles, so that none waits for itself. Returns a number that depends on all.
template <class T>
T multiply_add(long rounds, const Numbers<T>& numbers) {
    using Pack = typename PackOf<T>::type;
    Pack factor = numbers.factor - Pack{};
    const Pack term = numbers.term - Pack{};
    Pack sum[BENCH_CHAINS];
    // Equal chains would be computed once.
#pragma GCC unroll 32
    for (int c = 0; c < BENCH_CHAINS; ++c) sum[c] = numbers.start[c] - Pack{};
    for (long round = 0; round < rounds; ++round)
#pragma GCC unroll 32
        for (int c = 0; c < BENCH_CHAINS; ++c) {
            BENCH_MAY_CHANGE(factor);
            sum[c] = sum[c] + factor * term;
        }
    Pack all{};
    for (int c = 0; c < BENCH_CHAINS; ++c) all += sum[c];
    T total = 0;
    for (unsigned lane = 0; lane < sizeof(Pack) / sizeof(T); ++lane) total += all[lane];
    return total;
}

template <class T>
constexpr Probe<T> probe = {multiply_add<T>, 2.0 * BENCH_CHAINS* BENCH_VECTOR_BYTES / sizeof(T)};
