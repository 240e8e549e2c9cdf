// How does one instruction set work on a tile?
// No #pragma once: for_each_isa.inl includes it once for each instruction set.
//
// Rules of this file: a pack never crosses the boundary of a function that is not inlined, nothing
// here takes a lambda, and no std:: function takes a pack; each would compile for the wrong
// target. `c + a * b` becomes a fused multiply-add where the target has one.

#define HEED_INLINE [[gnu::always_inline]] inline

template <class T>
struct PackOf;
template <>
struct PackOf<float> {
    typedef float type __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef float unaligned __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));
    typedef std::int32_t bits __attribute__((vector_size(HEED_VECTOR_BYTES)));
};
template <>
struct PackOf<double> {
    typedef double type __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef double unaligned __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(8), may_alias));
    typedef std::int64_t bits __attribute__((vector_size(HEED_VECTOR_BYTES)));
};

template <class T>
using Pack = typename PackOf<T>::type;
template <class T>
using Bits = typename PackOf<T>::bits;

template <class T>
inline constexpr int lanes = HEED_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
HEED_INLINE Pack<T> load(const T* from) {
    return *reinterpret_cast<const typename PackOf<T>::unaligned*>(from);
}
template <class T>
HEED_INLINE void store(T* to, Pack<T> pack) {
    *reinterpret_cast<typename PackOf<T>::unaligned*>(to) = pack;
}
template <class T>
HEED_INLINE Pack<T> broadcast(T value) {
    return value - Pack<T>{};  // x - 0 is x, also for -0
}

// ---------------------------------------------------------------------------------------------
// Products: C[r][lanes] (+)= sum_k A(r, k) * B[k][lanes], A read as scalars through two strides.

/// Rows of C that stay in registers together with one row of B and one scalar of A.
template <int width>
inline constexpr int rows_at_once = HEED_VECTOR_REGISTERS == 32 ? (width == 3   ? 8
                                                                   : width == 2 ? 8
                                                                                : 16)
                                                                : (width == 3   ? 4
                                                                   : width == 2 ? 6
                                                                                : 8);

/// Brings a cache line into the second-level cache.
HEED_INLINE void ask_for(std::uintptr_t address) {
    __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

/// What a product does with C beside computing it.
enum class Product { scores, accumulate };

template <int rows, int width, Product kind, class T>
HEED_INLINE void product_block(const T* a, Index row_stride, Index step, const T* b, Index b_row,
                               Index count, T* c, Index c_row, Pack<T>* largest,
                               LinesAhead& ahead) {
    const LinesAhead::Walk lines = ahead.take(count);
    Pack<T> sum[rows][width];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w)
            sum[r][w] =
                kind == Product::accumulate ? load(c + r * c_row + w * lanes<T>) : Pack<T>{};
#if defined(__clang__)
            // Tuned for some processors, clang would unroll it, and run out of registers for the
            // sums.
#pragma clang loop unroll(disable)
#endif
    for (Index k = 0; k < count; ++k) {
        ask_for(lines.first + static_cast<std::uintptr_t>(k) * lines.step);
        Pack<T> from_b[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) from_b[w] = load(b + k * b_row + w * lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Pack<T> from_a = broadcast(a[r * row_stride + k * step]);
#pragma GCC unroll 3
            for (int w = 0; w < width; ++w) sum[r][w] = sum[r][w] + from_a * from_b[w];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            store(c + r * c_row + w * lanes<T>, sum[r][w]);
            if (kind == Product::scores)
                largest[w] = sum[r][w] > largest[w] ? sum[r][w] : largest[w];
        }
}

/// All rows: as many at once as fit, then half as many, and so on down to one.
template <int rows, int width, Product kind, class T>
HEED_INLINE void product_rows(const T* a, Index row_stride, Index step, Index total, const T* b,
                              Index b_row, Index count, T* c, Index c_row, Pack<T>* largest,
                              LinesAhead& ahead) {
    Index r = 0;
    for (; r + rows <= total; r += rows)
        product_block<rows, width, kind>(a + r * row_stride, row_stride, step, b, b_row, count,
                                         c + r * c_row, c_row, largest, ahead);
    if constexpr (rows > 1)
        product_rows<rows / 2, width, kind>(a + r * row_stride, row_stride, step, total - r, b,
                                            b_row, count, c + r * c_row, c_row, largest, ahead);
}

template <int width, class T>
void scores(const T* k, Index stride, Index keys, Index head_dim, const T* queries, T* scores,
            Index row, T* tile_max, LinesAhead& ahead) {
    Pack<T> largest[width];
    for (int w = 0; w < width; ++w) largest[w] = broadcast(-std::numeric_limits<T>::infinity());
    product_rows<rows_at_once<width>, width, Product::scores>(
        k, stride, 1, keys, queries, row, head_dim, scores, row, largest, ahead);
    for (int w = 0; w < width; ++w) store(tile_max + w * lanes<T>, largest[w]);
}

template <int width, class T>
void values(const T* v, Index stride, Index keys, Index value_dim, const T* weights, T* out,
            Index row, LinesAhead& ahead) {
    product_rows<rows_at_once<width>, width, Product::accumulate>(
        v, 1, stride, value_dim, weights, row, keys, out, row, static_cast<Pack<T>*>(nullptr),
        ahead);
}

// ---------------------------------------------------------------------------------------------
// Online softmax (Milakov, Gimelshein, arXiv 1805.02867), per lane.

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
    return (Pack<T>)(lookup(table, n) + (n << (mantissa_bits<T> - 3)));
}
/// 2^n likewise.
template <class T>
HEED_INLINE Pack<T> power_of(Bits<T> n) {
    return (Pack<T>)((Bits<T>)broadcast(T(1)) + (n << mantissa_bits<T>));
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

// ---------------------------------------------------------------------------------------------
// Changes of scores.

/// tanh x = E / (E + 2) with E = exp(2x) - 1 = 2^n (2^f - 1) + (2^n - 1), which keeps its relative
/// precision near 0. Beyond the bounds it is 1; the comparisons keep NaN.
template <class T>
HEED_INLINE Pack<T> tanh(Pack<T> x) {
    const Pack<T> bound = broadcast(sizeof(T) == 4 ? T(10) : T(20));
    x = x > bound ? bound : x;
    x = x < -bound ? -bound : x;
    const Pack<T> exponent = x * broadcast(2 * log2_e<T>);
    const Pack<T> shifted = exponent + broadcast(rounding_magic<T>);
    const Pack<T> f = exponent - (shifted - broadcast(rounding_magic<T>));
    const Pack<T> power = power_of<T>((Bits<T>)shifted);
    Pack<T> slope;
    exp2_slope<1>(&f, &slope);
    const Pack<T> fraction = slope * f;
    const Pack<T> e = (power - broadcast(T(1))) + power * fraction;
    return e / (e + broadcast(T(2)));
}

template <class T>
void soft_cap(T* scores, Index count, T cap) {
    const Pack<T> limit = broadcast(cap);
    for (Index n = 0; n < count; n += lanes<T>)
        store(scores + n, limit * tanh<T>(load(scores + n) / limit));
}

/// score + bias, hidden where either is.
template <class T>
HEED_INLINE Pack<T> add_or_hide(Pack<T> score, Pack<T> bias) {
    const Pack<T> hidden = broadcast(-std::numeric_limits<T>::infinity());
    const Pack<T> sum = bias == hidden ? hidden : score + bias;
    return score == hidden ? hidden : sum;
}

template <class T>
void add_diagonals(T* scores, Index row, Index keys, const T* bias) {
    for (Index j = 0; j < keys; ++j)
        for (Index i = 0; i < row; i += lanes<T>) {
            T* const place = scores + j * row + i;
            store(place, add_or_hide<T>(load(place), load(bias + keys - 1 - j + i)));
        }
}

template <int width, class T>
void row_max(const T* scores, Index keys, T* tile_max) {
    constexpr int row = width * lanes<T>;
    Pack<T> largest[width];
    for (int w = 0; w < width; ++w) largest[w] = broadcast(-std::numeric_limits<T>::infinity());
    for (Index j = 0; j < keys; ++j)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            const Pack<T> score = load(scores + j * row + w * lanes<T>);
            largest[w] = score > largest[w] ? score : largest[w];
        }
    for (int w = 0; w < width; ++w) store(tile_max + w * lanes<T>, largest[w]);
}

template <int width, class T>
void hide_outside(T* scores, Index keys, const T* first_key, const T* end_key, T* tile_max) {
    constexpr int row = width * lanes<T>;
    const Pack<T> hidden = broadcast(-std::numeric_limits<T>::infinity());
    Pack<T> first[width], end[width], largest[width];
    for (int w = 0; w < width; ++w) {
        first[w] = load(first_key + w * lanes<T>);
        end[w] = load(end_key + w * lanes<T>);
        largest[w] = hidden;
    }
    for (Index j = 0; j < keys; ++j) {
        const Pack<T> key = broadcast(static_cast<T>(j));
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            T* const place = scores + j * row + w * lanes<T>;
            Pack<T> score = load(place);
            score = key < first[w] ? hidden : score;
            score = key < end[w] ? score : hidden;
            store(place, score);
            largest[w] = score > largest[w] ? score : largest[w];
        }
    }
    for (int w = 0; w < width; ++w) store(tile_max + w * lanes<T>, largest[w]);
}

/// A maximum may lag behind by this much: the weights then reach exp(5) = 148, far from overflow,
/// and rising scores cost few rescalings. Each lane decides for itself, so that a query's result
/// does not depend on its neighbours.
template <class T>
inline constexpr T max_margin = T(5);

template <int width, class T>
bool raise_max(const T* tile_max, T* max, T* factor) {
    Bits<T> any{};
#pragma GCC unroll 3
    for (int w = 0; w < width; ++w) {
        const Pack<T> old = load(max + w * lanes<T>);
        const Pack<T> candidate = load(tile_max + w * lanes<T>);
        const auto raised = candidate > old + broadcast(max_margin<T>);
        const Pack<T> now = raised ? candidate : old;
        store(max + w * lanes<T>, now);
        Pack<T> change = old - now;
        exp<1, T>(&change);
        store(factor + w * lanes<T>, raised ? change : broadcast(T(1)));
        any |= (Bits<T>)raised;
    }
    bool result = false;
    for (int i = 0; i < lanes<T>; ++i) result |= any[i] != 0;
    return result;
}

template <int width, class T>
void exponentiate(T* scores, Index keys, const T* max, T* sum) {
    constexpr int row = width * lanes<T>;
    Pack<T> reference[width], total[width];
    for (int w = 0; w < width; ++w) {
        const Pack<T> m = load(max + w * lanes<T>);
        // A lane that has seen no key yet: minus infinity minus itself would be NaN.
        reference[w] = m == broadcast(-std::numeric_limits<T>::infinity()) ? Pack<T>{} : m;
        total[w] = load(sum + w * lanes<T>);
    }
    for (Index j = 0; j < keys; ++j) {
        T* const place = scores + j * row;
        Pack<T> weight[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) weight[w] = load(place + w * lanes<T>) - reference[w];
        exp<width, T>(weight);
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            store(place + w * lanes<T>, weight[w]);
            total[w] += weight[w];
        }
    }
    for (int w = 0; w < width; ++w) store(sum + w * lanes<T>, total[w]);
}

template <class T>
bool all_finite(const T* rows, Index stride, Index count, Index columns) {
    // Zero times infinity or NaN is NaN, and stays so in the sum. Several sums, so that none waits.
    constexpr int sums = 4;
    Pack<T> zeros[sums] = {};
    T rest = 0;
    for (Index r = 0; r < count; ++r) {
        const T* const row = rows + r * stride;
        Index c = 0;
        for (; c + sums * lanes<T> <= columns; c += sums * lanes<T>)
#pragma GCC unroll 4
            for (int i = 0; i < sums; ++i)
                zeros[i] = zeros[i] + load(row + c + i * lanes<T>) * broadcast(T(0));
        for (; c + lanes<T> <= columns; c += lanes<T>)
            zeros[0] = zeros[0] + load(row + c) * broadcast(T(0));
        for (; c < columns; ++c) rest += row[c] * T(0);
    }
    const Pack<T> sum = (zeros[0] + zeros[1]) + (zeros[2] + zeros[3]);
    for (int i = 0; i < lanes<T>; ++i) rest += sum[i];
    return rest == T(0);
}

template <int width, class T>
void rescale(T* rows, Index count, const T* factor) {
    constexpr int row = width * lanes<T>;
    Pack<T> factors[width];
    for (int w = 0; w < width; ++w) factors[w] = load(factor + w * lanes<T>);
    for (Index r = 0; r < count; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            T* const place = rows + r * row + w * lanes<T>;
            store(place, load(place) * factors[w]);
        }
}

// ---------------------------------------------------------------------------------------------
// Dropout: Philox4x32-10 (tensor/philox.hpp) for one counter to each lane.

/// 64-bit lanes whose low halves are the 32-bit words of Philox; the high halves hold anything.
typedef std::uint64_t Words __attribute__((vector_size(HEED_VECTOR_BYTES)));

HEED_INLINE Words words(std::uint64_t value) {
    return value - Words{};
}

/// The 64-bit products of the low halves. GCC does not see by itself that one instruction does it.
HEED_INLINE Words multiply_low_halves(Words a, Words b) {
#if HEED_HAS_X86_KERNELS && !defined(__clang__) && HEED_VECTOR_BYTES == 64
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef long long Products __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq512_mask((Halves)a, (Halves)b, Products{},
                                                 static_cast<unsigned char>(-1));
#elif HEED_HAS_X86_KERNELS && !defined(__clang__) && HEED_VECTOR_BYTES == 32
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq256((Halves)a, (Halves)b);
#elif HEED_HAS_X86_KERNELS && !defined(__clang__)
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq128((Halves)a, (Halves)b);
#else
    const Words low = words(0xffffffffu);
    return (a & low) * (b & low);
#endif
}

HEED_INLINE void philox_rounds(Words* counter, PhiloxKey key) {
    for (int round = 0; round < 10; ++round) {
        const Words product0 = multiply_low_halves(counter[0], words(0xD2511F53));
        const Words product1 = multiply_low_halves(counter[2], words(0xCD9E8D57));
        counter[0] = (product1 >> 32) ^ counter[1] ^ words(key[0]);
        counter[1] = product1;
        counter[2] = (product0 >> 32) ^ counter[3] ^ words(key[1]);
        counter[3] = product0;
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
}

/// The four words of one block of keys for a register of queries, in the type of its lanes.
HEED_INLINE void random_words(const DropoutTile& at, std::uint64_t block, std::uint32_t query,
                              Words* bits, float /*lane type*/) {
    Words even[4], odd[4], offsets;
    for (int i = 0; i < lanes<double>; ++i) offsets[i] = 2 * static_cast<std::uint64_t>(i);
    const Words queries = offsets + words(query);
    for (int word = 0; word < 4; ++word)
        even[word] = odd[word] = words(word == 0 ? block : word == 2 ? at.head : at.call);
    even[1] = queries;
    odd[1] = queries + words(1);
    philox_rounds(even, at.philox_key);
    philox_rounds(odd, at.philox_key);
    for (int word = 0; word < 4; ++word)
        bits[word] = (even[word] & words(0xffffffffu)) | (odd[word] << 32);
}
HEED_INLINE void random_words(const DropoutTile& at, std::uint64_t block, std::uint32_t query,
                              Words* bits, double /*lane type*/) {
    Words offsets;
    for (int i = 0; i < lanes<double>; ++i) offsets[i] = static_cast<std::uint64_t>(i);
    bits[0] = words(block);
    bits[1] = offsets + words(query);
    bits[2] = words(at.head);
    bits[3] = words(at.call);
    philox_rounds(bits, at.philox_key);
    for (int word = 0; word < 4; ++word) bits[word] &= words(0xffffffffu);
}

template <class T>
void drop(T* weights, Index row, Index keys, const DropoutTile& at, T scale) {
    typedef std::make_unsigned_t<std::remove_reference_t<decltype(Bits<T>{}[0])>> Unsigned
        __attribute__((vector_size(HEED_VECTOR_BYTES)));
    // At least `threshold` is more than threshold - 1, which has 32 bits even for 2^32.
    const Unsigned last_dropped = static_cast<std::uint32_t>(at.threshold - 1) - Unsigned{};
    const std::uint64_t end_key = at.first_key + static_cast<std::uint64_t>(keys);
    for (std::uint64_t block = at.first_key / 4; block * 4 < end_key; ++block)
        for (Index i = 0; i < row; i += lanes<T>) {
            Words bits[4];
            random_words(at, block, at.first_query + static_cast<std::uint32_t>(i), bits, T());
            for (std::uint64_t word = 0; word < 4; ++word) {
                const std::uint64_t key = block * 4 + word;
                if (key < at.first_key || key >= end_key) continue;
                T* const place = weights + static_cast<Index>(key - at.first_key) * row + i;
                const auto kept = (Unsigned)bits[word] > last_dropped;
                store(place, kept ? load(place) * broadcast(scale) : Pack<T>{});
            }
        }
}

// ---------------------------------------------------------------------------------------------
// Between rows of the caller (one query after another) and lanes (one query beside another).

/// Element j of the result: bit `step` of j chooses between a[j] and b[j - step].
template <int step, class T, std::size_t... j>
HEED_INLINE Pack<T> take_low(Pack<T> a, Pack<T> b, std::index_sequence<j...>) {
    return __builtin_shufflevector(
        a, b, ((j & step) != 0 ? lanes<T> + static_cast<int>(j) - step : static_cast<int>(j))...);
}
/// Element j of the result: bit `step` of j chooses between a[j + step] and b[j].
template <int step, class T, std::size_t... j>
HEED_INLINE Pack<T> take_high(Pack<T> a, Pack<T> b, std::index_sequence<j...>) {
    return __builtin_shufflevector(
        a, b, ((j & step) != 0 ? lanes<T> + static_cast<int>(j) : static_cast<int>(j) + step)...);
}

/// Transposes a square of packs in registers, exchanging blocks of half the size at each step.
template <class T, int step = lanes<T> / 2>
HEED_INLINE void transpose_square(Pack<T>* square) {
    using Lanes = std::make_index_sequence<lanes<T>>;
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) {
        if ((i & step) != 0) continue;
        const Pack<T> a = square[i], b = square[i + step];
        square[i] = take_low<step, T>(a, b, Lanes{});
        square[i + step] = take_high<step, T>(a, b, Lanes{});
    }
    if constexpr (step > 1) transpose_square<T, step / 2>(square);
}

enum class Transposed { overwrite, add };

/// to[c][r] = from[r][c] * factor[c] for a square of `lanes` rows and columns, or += it.
template <Transposed mode, class T>
HEED_INLINE void transpose_full(const T* from, Index from_stride, Pack<T> factor, T* to,
                                Index to_stride) {
    Pack<T> square[lanes<T>];
#pragma GCC unroll 16
    for (int r = 0; r < lanes<T>; ++r) square[r] = load(from + r * from_stride) * factor;
    transpose_square<T>(square);
#pragma GCC unroll 16
    for (int c = 0; c < lanes<T>; ++c) {
        T* const place = to + c * to_stride;
        store(place, mode == Transposed::add ? load(place) + square[c] : square[c]);
    }
}

/// The same for a square at an edge, of which only `rows` times `columns` elements exist.
template <Transposed mode, class T>
void transpose_part(const T* from, Index from_stride, Index rows, Index columns, const T* factor,
                    T* to, Index to_stride) {
    for (Index r = 0; r < rows; ++r)
        for (Index c = 0; c < columns; ++c) {
            const T x = from[r * from_stride + c] * factor[c];
            T& place = to[c * to_stride + r];
            place = mode == Transposed::add ? place + x : x;
        }
}

/// The same for any rows and columns, square by square; factor is one pack when it does not vary.
template <bool one_factor, Transposed mode = Transposed::overwrite, class T>
HEED_INLINE void transpose(const T* from, Index from_stride, Index rows, Index columns,
                           const T* factor, T* to, Index to_stride) {
    constexpr int n = lanes<T>;
    for (Index c = 0; c < columns; c += n) {
        const T* const factors = one_factor ? factor : factor + c;
        for (Index r = 0; r < rows; r += n) {
            const T* const square = from + r * from_stride + c;
            T* const target = to + c * to_stride + r;
            if (rows - r >= n && columns - c >= n)
                transpose_full<mode, T>(square, from_stride, load(factors), target, to_stride);
            else
                transpose_part<mode, T>(square, from_stride, rows - r < n ? rows - r : n,
                                        columns - c < n ? columns - c : n, factors, target,
                                        to_stride);
        }
    }
}

/// A square of biases, one query a row: those of the caller, or what his flags stand for.
template <class T>
HEED_INLINE void load_biases(const T* bias, Index stride, Pack<T> /*hidden*/, bool /*visible*/,
                             Pack<T>* square) {
#pragma GCC unroll 16
    for (int r = 0; r < lanes<T>; ++r) square[r] = load(bias + r * stride);
}
template <class T>
HEED_INLINE void load_biases(const std::uint8_t* flags, Index stride, Pack<T> hidden, bool visible,
                             Pack<T>* square) {
    typedef std::uint8_t Bytes __attribute__((vector_size(lanes<T>)));
    typedef std::uint8_t AnyBytes __attribute__((vector_size(lanes<T>), aligned(1), may_alias));
#pragma GCC unroll 16
    for (int r = 0; r < lanes<T>; ++r) {
        const Bytes bytes = *reinterpret_cast<const AnyBytes*>(flags + r * stride);
        const auto shown = (__builtin_convertvector(bytes, Bits<T>) != Bits<T>{});
        square[r] = shown ? (visible ? Pack<T>{} : hidden) : (visible ? hidden : Pack<T>{});
    }
}
template <class T>
HEED_INLINE T bias_of(T bias, bool /*visible*/) {
    return bias;
}
template <class T>
HEED_INLINE T bias_of(std::uint8_t flag, bool visible) {
    return (flag != 0) == visible ? T(0) : -std::numeric_limits<T>::infinity();
}

/// scores[j][i] += bias[i][j], hidden where either is; square by square.
template <class T, class Source>
HEED_INLINE void add_transposed(T* scores, Index row, const Source* bias, Index stride,
                                Index queries, Index keys, bool visible) {
    constexpr int n = lanes<T>;
    const T infinity = std::numeric_limits<T>::infinity();
    const Pack<T> hidden = broadcast(-infinity);
    for (Index j = 0; j < keys; j += n)
        for (Index i = 0; i < queries; i += n) {
            const Source* const from = bias + i * stride + j;
            T* const to = scores + j * row + i;
            if (queries - i >= n && keys - j >= n) {
                Pack<T> square[n];
                load_biases<T>(from, stride, hidden, visible, square);
                transpose_square<T>(square);
#pragma GCC unroll 16
                for (int r = 0; r < n; ++r)
                    store(to + r * row, add_or_hide<T>(load(to + r * row), square[r]));
                continue;
            }
            for (Index r = 0; r < keys - j && r < n; ++r)
                for (Index c = 0; c < queries - i && c < n; ++c) {
                    T& score = to[r * row + c];
                    const T added = bias_of<T>(from[c * stride + r], visible);
                    score = score == -infinity || added == -infinity ? -infinity : score + added;
                }
        }
}

template <class T>
void add_bias(T* scores, Index row, const T* bias, Index stride, Index queries, Index keys) {
    add_transposed<T>(scores, row, bias, stride, queries, keys, true);
}

template <class T>
void hide_flagged(T* scores, Index row, const std::uint8_t* flags, Index stride, Index queries,
                  Index keys, bool visible) {
    add_transposed<T>(scores, row, flags, stride, queries, keys, visible);
}

template <class T>
void load_queries(const T* q, Index stride, Index queries, Index head_dim, T scale, T* tile,
                  Index row) {
    T scales[lanes<T>];
    store(scales, broadcast(scale));
    transpose<true>(q, stride, queries, head_dim, scales, tile, row);
    if (queries == row) return;
    for (Index d = 0; d < head_dim; ++d)
        for (Index i = queries; i < row; ++i) tile[d * row + i] = T(0);
}

template <class T>
void finish(const T* out, Index row, Index value_dim, Index queries, const T* sum, T* result,
            Index stride) {
    T inverse[max_tile_width * lanes<T>];
    for (Index i = 0; i < row; i += lanes<T>) {
        const Pack<T> total = load(sum + i);
        store(inverse + i, total == Pack<T>{} ? Pack<T>{} : broadcast(T(1)) / total);
    }
    transpose<false>(out, row, value_dim, queries, inverse, result, stride);
}

// ---------------------------------------------------------------------------------------------
// The way back, from the gradient of the output to those of scores, keys and values.

template <class T>
void row_products(const T* a, Index a_stride, const T* b, Index b_stride, Index rows, Index columns,
                  T* result) {
    for (Index i = 0; i < rows; ++i) {
        const T* const from_a = a + i * a_stride;
        const T* const from_b = b + i * b_stride;
        // Four sums, for each waits for its own last step.
        Pack<T> sums[4]{};
        Index c = 0;
        for (; c + 4 * lanes<T> <= columns; c += 4 * lanes<T>)
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n)
                sums[n] =
                    sums[n] + load(from_a + c + n * lanes<T>) * load(from_b + c + n * lanes<T>);
        for (; c + lanes<T> <= columns; c += lanes<T>)
            sums[0] = sums[0] + load(from_a + c) * load(from_b + c);
        const Pack<T> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        T sum = 0;
        for (; c < columns; ++c) sum += from_a[c] * from_b[c];
        for (int w = 0; w < lanes<T>; ++w) sum += all[w];
        result[i] = sum;
    }
}

template <int width, class T>
void weights(T* scores, Index keys, const T* lse) {
    constexpr int row = width * lanes<T>;
    const Pack<T> hidden = broadcast(-std::numeric_limits<T>::infinity());
    Pack<T> reference[width];
    for (int w = 0; w < width; ++w) reference[w] = load(lse + w * lanes<T>);
    for (Index j = 0; j < keys; ++j) {
        T* const place = scores + j * row;
        Pack<T> score[width], weight[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            score[w] = load(place + w * lanes<T>);
            weight[w] = score[w] - reference[w];
        }
        exp<width, T>(weight);
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w)
            store(place + w * lanes<T>, score[w] == hidden ? Pack<T>{} : weight[w]);
    }
}

template <class T>
void soft_cap_slopes(const T* scores, T* slopes, Index count, T cap) {
    const Pack<T> limit = broadcast(cap), one = broadcast(T(1));
    for (Index n = 0; n < count; n += lanes<T>) {
        const Pack<T> share = load(scores + n) / limit;
        store(slopes + n, load(slopes + n) * ((one - share) * (one + share)));
    }
}

template <int width, bool has_slopes, class T>
HEED_INLINE void score_gradient_rows(const T* weights, const T* dropped, T* gradients, Index keys,
                                     const T* delta, const T* slopes) {
    constexpr int row = width * lanes<T>;
    Pack<T> mean[width];
    for (int w = 0; w < width; ++w) mean[w] = load(delta + w * lanes<T>);
    for (Index j = 0; j < keys; ++j)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            const Index n = j * row + w * lanes<T>;
            const Pack<T> weight = load(weights + n), kept = load(dropped + n);
            const Pack<T> product = kept * load(gradients + n);
            Pack<T> gradient = (kept == Pack<T>{} ? Pack<T>{} : product) - weight * mean[w];
            if constexpr (has_slopes) gradient = gradient * load(slopes + n);
            store(gradients + n, weight == Pack<T>{} ? Pack<T>{} : gradient);
        }
}

template <int width, class T>
void score_gradients(const T* weights, const T* dropped, T* gradients, Index keys, const T* delta,
                     const T* slopes) {
    if (slopes != nullptr)
        score_gradient_rows<width, true>(weights, dropped, gradients, keys, delta, slopes);
    else
        score_gradient_rows<width, false>(weights, dropped, gradients, keys, delta, slopes);
}

template <class T>
void multiply_slopes(const T* weights, const T* slopes, Index count, T* gradients) {
    for (Index n = 0; n < count; n += lanes<T>) {
        const Pack<T> product = load(slopes + n) * load(gradients + n);
        store(gradients + n, load(weights + n) == Pack<T>{} ? Pack<T>{} : product);
    }
}

/// The sum of the packs of a row.
template <class T>
HEED_INLINE Pack<T> sum_of_packs(const T* from, Index row) {
    Pack<T> sum{};
    for (Index i = 0; i < row; i += lanes<T>) sum = sum + load(from + i);
    return sum;
}

template <class T>
void lane_sums(const T* rows, Index row, Index count, T* sums) {
    constexpr int n = lanes<T>;
    Index j = 0;
    for (; j + n <= count; j += n) {
        Pack<T> square[n];
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) square[r] = sum_of_packs(rows + (j + r) * row, row);
        transpose_square<T>(square);
        Pack<T> total = load(sums + j);
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) total = total + square[r];
        store(sums + j, total);
    }
    for (; j < count; ++j) {
        const Pack<T> sum = sum_of_packs(rows + j * row, row);
        for (int w = 0; w < n; ++w) sums[j] += sum[w];
    }
}

template <class T>
void diagonal_sums(const T* tile, Index row, Index keys, T* sums) {
    for (Index j = 0; j < keys; ++j)
        for (Index i = 0; i < row; i += lanes<T>) {
            T* const place = sums + keys - 1 - j + i;
            store(place, load(place) + load(tile + j * row + i));
        }
}

template <class T>
void add_to_rows(const T* tile, Index row, Index keys, Index queries, T* rows, Index stride) {
    T one[lanes<T>];
    store(one, broadcast(T(1)));
    transpose<true, Transposed::add>(tile, row, keys, queries, one, rows, stride);
}

template <int width, class T>
void weighted_sums(const T* weights, Index weight_row, Index count, const T* rows, Index row,
                   Index terms, T* sums, Index sum_row, LinesAhead& ahead) {
    product_rows<rows_at_once<width>, width, Product::accumulate>(
        weights, weight_row, 1, count, rows, row, terms, sums, sum_row,
        static_cast<Pack<T>*>(nullptr), ahead);
}

template <class T>
inline constexpr TileKernels<T> table = {
    HEED_ISA_OF_TEXT,
    lanes<T>,
    load_queries<T>,
    {scores<1, T>, scores<2, T>, scores<3, T>},
    {row_max<1, T>, row_max<2, T>, row_max<3, T>},
    {hide_outside<1, T>, hide_outside<2, T>, hide_outside<3, T>},
    soft_cap<T>,
    add_bias<T>,
    hide_flagged<T>,
    add_diagonals<T>,
    {raise_max<1, T>, raise_max<2, T>, raise_max<3, T>},
    {exponentiate<1, T>, exponentiate<2, T>, exponentiate<3, T>},
    drop<T>,
    {rescale<1, T>, rescale<2, T>, rescale<3, T>},
    all_finite<T>,
    {values<1, T>, values<2, T>, values<3, T>},
    finish<T>,
    row_products<T>,
    {weights<1, T>, weights<2, T>, weights<3, T>},
    soft_cap_slopes<T>,
    {score_gradients<1, T>, score_gradients<2, T>, score_gradients<3, T>},
    multiply_slopes<T>,
    lane_sums<T>,
    diagonal_sums<T>,
    add_to_rows<T>,
    {weighted_sums<1, T>, weighted_sums<2, T>, weighted_sums<3, T>},
};

#undef HEED_INLINE
