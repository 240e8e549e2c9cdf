// How does one instruction set read memory?
// No #pragma once: for_each_isa.inl includes it once for each instruction set.

/// Adds up in as many registers as hide the time of an addition and of a load.
inline float read_all(const float* values, Size count) {
    typedef float Pack __attribute__((vector_size(HEED_VECTOR_BYTES)));
    constexpr Size lanes = HEED_VECTOR_BYTES / sizeof(float), chains = 8;
    Pack sums[chains] = {};
    for (Size i = 0; i + chains * lanes <= count; i += chains * lanes)
#pragma GCC unroll 8
        for (Size c = 0; c < chains; ++c) {
            Pack pack;
            __builtin_memcpy(&pack, values + i + c * lanes, sizeof pack);
            sums[c] += pack;
        }
    Pack all{};
    for (Size c = 0; c < chains; ++c) all += sums[c];
    float total = 0;
    for (Size lane = 0; lane < lanes; ++lane) total += all[lane];
    return total;
}
