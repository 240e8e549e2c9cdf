// How is exp computed on the lanes of a few registers?
// Part of tile_kernels.inl, whose rules hold here.

/// result = c[0] + c[1] x + c[2] x^2 + ..., for several registers side by side: each waits for its
/// own last step.
template <int registers, class T, std::size_t count>
HEED_INLINE void polynomial(const T (&c)[count], const Pack<T>* x, Pack<T>* result) {
#pragma GCC unroll 3
    for (int w = 0; w < registers; ++w) result[w] = broadcast(c[count - 1]);
#pragma GCC unroll 16
    for (std::size_t n = count - 1; n > 0; --n)
#pragma GCC unroll 3
        for (int w = 0; w < registers; ++w) result[w] = broadcast(c[n - 1]) + result[w] * x[w];
}

/// p(f) = (2^f - 1) / f for |f| <= 1/2. Like the next two, the polynomial that makes the relative
/// error of 1 + f p(f) least: 2e-9 in float and 4e-18 in double, before rounding.
template <int registers>
HEED_INLINE void exp2_slope(const Pack<float>* f, Pack<float>* slope) {
    constexpr float c[] = {6.9314718e-1f, 2.4022648e-1f, 5.5503324e-2f,
                           9.6184369e-3f, 1.3398875e-3f, 1.5353362e-4f};
    polynomial<registers>(c, f, slope);
}
template <int registers>
HEED_INLINE void exp2_slope(const Pack<double>* f, Pack<double>* slope) {
    constexpr double c[] = {
        6.931471805599453258e-1,  2.4022650695910131263e-1, 5.5504108664820084015e-2,
        9.6181291075941190443e-3, 1.3333558146774446979e-3, 1.5403530457112674985e-4,
        1.5252733493281686504e-5, 1.3215435282350953223e-6, 1.0178199512506116281e-7,
        7.0737831948827469464e-9, 4.4347795381578016768e-10};
    polynomial<registers>(c, f, slope);
}

/// The same for |f| <= 1/16: 3e-8 and 3e-18.
template <int registers>
HEED_INLINE void exp2_short_slope(const Pack<float>* f, Pack<float>* slope) {
    constexpr float c[] = {6.9314721e-1f, 2.4025763e-1f, 5.5496221e-2f};
    polynomial<registers>(c, f, slope);
}
template <int registers>
HEED_INLINE void exp2_short_slope(const Pack<double>* f, Pack<double>* slope) {
    constexpr double c[] = {6.9314718055994531811e-1, 2.4022650695911516188e-1,
                            5.5504108664802350856e-2, 9.6181290851777503087e-3,
                            1.3333558238962766852e-3, 1.5404521962683275005e-4,
                            1.5251844150118251504e-5};
    polynomial<registers>(c, f, slope);
}

template <class T>
inline constexpr int mantissa_bits = sizeof(T) == 4 ? 23 : 52;
template <class T>
inline constexpr T lowest_exponent = sizeof(T) == 4 ? T(-126) : T(-1022);
/// Adding this to x leaves round(x) in the low bits of the sum: 1.5 * 2^mantissa_bits, whose last
/// bit counts ones. An eighth of it leaves round(8 x).
template <class T>
inline constexpr T rounding_magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);

/// Whether the instruction set has a lookup among eight elements of T.
#if HEED_HAS_X86_KERNELS && HEED_VECTOR_BYTES == 64
template <class T>
inline constexpr bool has_lookup = true;
#elif HEED_HAS_X86_KERNELS && HEED_VECTOR_BYTES == 32
template <class T>
inline constexpr bool has_lookup = sizeof(T) == 4;
#else
template <class T>
inline constexpr bool has_lookup = false;
#endif

/// table[n mod 8] for a table whose eight elements fill the register, if need be twice.
#if HEED_HAS_X86_KERNELS && HEED_VECTOR_BYTES == 64 && defined(__clang__)
HEED_INLINE Bits<float> lookup(Bits<float> table, Bits<float> n) {
    return __builtin_ia32_permvarsi512(table, n);
}
HEED_INLINE Bits<double> lookup(Bits<double> table, Bits<double> n) {
    typedef long long Elements __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Bits<double>)__builtin_ia32_permvardi512((Elements)table, (Elements)n);
}
#elif HEED_HAS_X86_KERNELS && HEED_VECTOR_BYTES == 64
HEED_INLINE Bits<float> lookup(Bits<float> table, Bits<float> n) {
    return __builtin_ia32_permvarsi512_mask(table, n, table, static_cast<unsigned short>(-1));
}
HEED_INLINE Bits<double> lookup(Bits<double> table, Bits<double> n) {
    typedef long long Elements __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Bits<double>)__builtin_ia32_permvardi512_mask(
        (Elements)table, (Elements)n, (Elements)table, static_cast<unsigned char>(-1));
}
#elif HEED_HAS_X86_KERNELS && HEED_VECTOR_BYTES == 32
HEED_INLINE Bits<float> lookup(Bits<float> table, Bits<float> n) {
    return __builtin_ia32_permvarsi256(table, n);
}
#endif

/// The bits of 2^(i/8), less i in the place where n/8 is added to the exponent; twice in float, for
/// registers of sixteen.
template <class T>
inline constexpr std::int32_t eighths[] = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
template <>
inline constexpr std::int64_t eighths<double>[] = {
    0x3ff0000000000000, 0x3fef72b83c7d517b, 0x3fef06fe0a31b715, 0x3feebfdad5362a27,
    0x3feea09e667f3bcd, 0x3feeace5422aa0db, 0x3feee89f995ad3ad, 0x3fef5818dcfba487};

/// 2^(n/8) for n in the low bits of the elements.
template <class T>
HEED_INLINE Pack<T> power_of_eighths(Bits<T> n) {
    typedef Bits<T> Table __attribute__((aligned(sizeof(T)), may_alias));
    const Bits<T> table = *reinterpret_cast<const Table*>(eighths<T>);
    const WrappingBits<T> exponent = (WrappingBits<T>)n << (mantissa_bits<T> - 3);
    return (Pack<T>)((WrappingBits<T>)lookup(table, n) + exponent);
}
/// 2^n likewise.
template <class T>
HEED_INLINE Pack<T> power_of(Bits<T> n) {
    const WrappingBits<T> exponent = (WrappingBits<T>)n << mantissa_bits<T>;
    return (Pack<T>)((WrappingBits<T>)broadcast(T(1)) + exponent);
}

template <class T>
inline constexpr T log2_e = T(1.4426950408889634074);

/// x = e^x for x <= 88 (709): exactly 0 where it is below the normal range, NaN for NaN. It is
/// 2^n 2^f with n + f = x log2 e; a lookup of the eighths in n leaves a short polynomial for f.
template <int registers, class T>
HEED_INLINE void exp(Pack<T>* x) {
    constexpr T magic = rounding_magic<T> / (has_lookup<T> ? 8 : 1);
    Pack<T> shifted[registers], f[registers], power[registers], slope[registers];
#pragma GCC unroll 3
    for (int w = 0; w < registers; ++w) {
        shifted[w] = broadcast(magic) + x[w] * broadcast(log2_e<T>);
        // Fused, the product is exact, and f has no error but its own rounding.
        f[w] = (broadcast(magic) - shifted[w]) + x[w] * broadcast(log2_e<T>);
    }
    if constexpr (has_lookup<T>)
        exp2_short_slope<registers>(f, slope);
    else
        exp2_slope<registers>(f, slope);
#pragma GCC unroll 3
    for (int w = 0; w < registers; ++w) {
        if constexpr (has_lookup<T>)
            power[w] = power_of_eighths<T>((Bits<T>)shifted[w]);
        else
            power[w] = power_of<T>((Bits<T>)shifted[w]);
        const Pack<T> result = power[w] + power[w] * f[w] * slope[w];
        x[w] = shifted[w] < broadcast(magic + lowest_exponent<T>) ? Pack<T>{} : result;
    }
}
