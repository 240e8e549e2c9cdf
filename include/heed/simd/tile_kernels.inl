// How does one instruction set work on a tile?
// No #pragma once: included by dispatch.hpp once for each instruction set, inside a namespace and
// target region of its own, with HEED_VECTOR_BYTES and HEED_VECTOR_REGISTERS defined.
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
                                                                   : width == 2 ? 12
                                                                                : 16)
                                                                : (width == 3   ? 4
                                                                   : width == 2 ? 6
                                                                                : 8);

/// What a product does with C beside computing it.
enum class Product { scores, accumulate };

template <int rows, int width, Product kind, class T>
HEED_INLINE void product_block(const T* a, Index row_stride, Index step, const T* b, Index count,
                               T* c, Index row, Pack<T>* largest) {
    Pack<T> sum[rows][width];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w)
            sum[r][w] = kind == Product::accumulate ? load(c + r * row + w * lanes<T>) : Pack<T>{};
    for (Index k = 0; k < count; ++k) {
        Pack<T> from_b[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) from_b[w] = load(b + k * row + w * lanes<T>);
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
            store(c + r * row + w * lanes<T>, sum[r][w]);
            if (kind == Product::scores)
                largest[w] = sum[r][w] > largest[w] ? sum[r][w] : largest[w];
        }
}

/// All rows: as many at once as fit, then half as many, and so on down to one.
template <int rows, int width, Product kind, class T>
HEED_INLINE void product_rows(const T* a, Index row_stride, Index step, Index total, const T* b,
                              Index count, T* c, Index row, Pack<T>* largest) {
    Index r = 0;
    for (; r + rows <= total; r += rows)
        product_block<rows, width, kind>(a + r * row_stride, row_stride, step, b, count,
                                         c + r * row, row, largest);
    if constexpr (rows > 1)
        product_rows<rows / 2, width, kind>(a + r * row_stride, row_stride, step, total - r, b,
                                            count, c + r * row, row, largest);
}

template <int width, class T>
void scores(const T* k, Index stride, Index keys, Index head_dim, const T* queries, T* scores,
            Index row, T* tile_max) {
    Pack<T> largest[width];
    for (int w = 0; w < width; ++w) largest[w] = broadcast(-std::numeric_limits<T>::infinity());
    product_rows<rows_at_once<width>, width, Product::scores>(k, stride, 1, keys, queries, head_dim,
                                                              scores, row, largest);
    for (int w = 0; w < width; ++w) store(tile_max + w * lanes<T>, largest[w]);
}

template <int width, class T>
void values(const T* v, Index stride, Index keys, Index value_dim, const T* weights, T* out,
            Index row) {
    product_rows<rows_at_once<width>, width, Product::accumulate>(
        v, 1, stride, value_dim, weights, keys, out, row, static_cast<Pack<T>*>(nullptr));
}

// ---------------------------------------------------------------------------------------------
// Online softmax (Milakov, Gimelshein, arXiv 1805.02867), per lane.

/// 2^f for |f| <= 1/2. A polynomial with p(0) = 1 and the least greatest relative error, 2e-9
/// before rounding.
HEED_INLINE Pack<float> exp2_fraction(Pack<float> f) {
    Pack<float> p = broadcast(1.5353362e-4f);
    p = broadcast(1.3398875e-3f) + p * f;
    p = broadcast(9.6184369e-3f) + p * f;
    p = broadcast(5.5503324e-2f) + p * f;
    p = broadcast(2.4022648e-1f) + p * f;
    p = broadcast(6.9314718e-1f) + p * f;
    return broadcast(1.0f) + p * f;
}
HEED_INLINE Pack<double> exp2_fraction(Pack<double> f) {
    // Taylor series in t = f log 2, |t| <= 0.3466: the term of t^13 is below 2^-52.
    const Pack<double> t = f * broadcast(0.69314718055994530942);
    Pack<double> p = broadcast(1.0 / 479001600.0);
    p = broadcast(1.0 / 39916800.0) + p * t;
    p = broadcast(1.0 / 3628800.0) + p * t;
    p = broadcast(1.0 / 362880.0) + p * t;
    p = broadcast(1.0 / 40320.0) + p * t;
    p = broadcast(1.0 / 5040.0) + p * t;
    p = broadcast(1.0 / 720.0) + p * t;
    p = broadcast(1.0 / 120.0) + p * t;
    p = broadcast(1.0 / 24.0) + p * t;
    p = broadcast(1.0 / 6.0) + p * t;
    p = broadcast(0.5) + p * t;
    p = broadcast(1.0) + p * t;
    return broadcast(1.0) + p * t;
}

template <class T>
inline constexpr int mantissa_bits = sizeof(T) == 4 ? 23 : 52;
/// The exponent field of 1.
template <class T>
inline constexpr T exponent_bias = sizeof(T) == 4 ? T(127) : T(1023);
/// Adding this to x leaves round(x) plus the exponent bias in the low bits: 1.5 * 2^mantissa_bits
/// leaves the integer, because the last bit of the sum then counts ones.
template <class T>
inline constexpr T rounding_magic =
    (sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0)) + exponent_bias<T>;

/// 2^x for x <= 127 (1023): exactly 0 below the normal range (on most targets from where round(x)
/// is below it), NaN for NaN.
#if HEED_VECTOR_BYTES == 64
// AVX-512 has instructions for round(x) and for p * 2^n, which spare a tenth of the time. The mask
// selects "not less than", which is true for NaN.
HEED_INLINE Pack<float> exp2(Pack<float> x) {
    constexpr int nearest = 8, not_less = 5, current_rounding = 4;
    const auto normal = __builtin_ia32_cmpps512_mask(
        x, broadcast(-126.0f), not_less, static_cast<unsigned short>(-1), current_rounding);
    const Pack<float> whole = __builtin_ia32_rndscaleps_mask(
        x, nearest, x, static_cast<unsigned short>(-1), current_rounding);
    return __builtin_ia32_scalefps512_mask(exp2_fraction(x - whole), whole, Pack<float>{}, normal,
                                           current_rounding);
}
HEED_INLINE Pack<double> exp2(Pack<double> x) {
    constexpr int nearest = 8, not_less = 5, current_rounding = 4;
    const auto normal = __builtin_ia32_cmppd512_mask(
        x, broadcast(-1022.0), not_less, static_cast<unsigned char>(-1), current_rounding);
    const Pack<double> whole = __builtin_ia32_rndscalepd_mask(
        x, nearest, x, static_cast<unsigned char>(-1), current_rounding);
    return __builtin_ia32_scalefpd512_mask(exp2_fraction(x - whole), whole, Pack<double>{}, normal,
                                           current_rounding);
}
#else
template <class T>
HEED_INLINE Pack<T> exp2_of(Pack<T> x) {
    // At the lowest x the exponent field becomes 0, which is the number 0. The maximum keeps NaN.
    const Pack<T> lowest = broadcast(-exponent_bias<T>);
    const Pack<T> inside = lowest > x ? lowest : x;
    const Pack<T> shifted = inside + broadcast(rounding_magic<T>);
    const Pack<T> whole = shifted - broadcast(rounding_magic<T>);
    const Pack<T> power = (Pack<T>)((Bits<T>)shifted << mantissa_bits<T>);
    return exp2_fraction(inside - whole) * power;
}
HEED_INLINE Pack<float> exp2(Pack<float> x) {
    return exp2_of<float>(x);
}
HEED_INLINE Pack<double> exp2(Pack<double> x) {
    return exp2_of<double>(x);
}
#endif

template <class T>
inline constexpr T log2_e = T(1.4426950408889634074);

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
        const Pack<T> change = exp2((old - now) * broadcast(log2_e<T>));
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
    for (Index j = 0; j < keys; ++j)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) {
            T* const place = scores + j * row + w * lanes<T>;
            // The difference first: scores near the ends of the number line times log2 e are
            // infinite, and their difference NaN.
            const Pack<T> weight = exp2((load(place) - reference[w]) * broadcast(log2_e<T>));
            store(place, weight);
            total[w] += weight;
        }
    for (int w = 0; w < width; ++w) store(sum + w * lanes<T>, total[w]);
}

template <class T>
bool all_finite(const T* rows, Index stride, Index count, Index columns) {
    Pack<T> zeros{};
    T rest = 0;
    for (Index r = 0; r < count; ++r) {
        const T* const row = rows + r * stride;
        Index c = 0;
        // Zero times infinity or NaN is NaN, and stays so in the sum.
        for (; c + lanes<T> <= columns; c += lanes<T>)
            zeros = zeros + load(row + c) * broadcast(T(0));
        for (; c < columns; ++c) rest += row[c] * T(0);
    }
    for (int i = 0; i < lanes<T>; ++i) rest += zeros[i];
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

/// to[c][r] = from[r][c] * factor[c] for a square of `lanes` rows and columns.
template <class T>
HEED_INLINE void transpose_full(const T* from, Index from_stride, Pack<T> factor, T* to,
                                Index to_stride) {
    Pack<T> square[lanes<T>];
#pragma GCC unroll 16
    for (int r = 0; r < lanes<T>; ++r) square[r] = load(from + r * from_stride) * factor;
    transpose_square<T>(square);
#pragma GCC unroll 16
    for (int c = 0; c < lanes<T>; ++c) store(to + c * to_stride, square[c]);
}

/// The same for a square at an edge, of which only `rows` times `columns` elements exist.
template <class T>
void transpose_part(const T* from, Index from_stride, Index rows, Index columns, const T* factor,
                    T* to, Index to_stride) {
    for (Index r = 0; r < rows; ++r)
        for (Index c = 0; c < columns; ++c)
            to[c * to_stride + r] = from[r * from_stride + c] * factor[c];
}

/// to[c][r] = from[r][c] * factor[c], square by square; factor is one pack when it does not vary.
template <bool one_factor, class T>
HEED_INLINE void transpose(const T* from, Index from_stride, Index rows, Index columns,
                           const T* factor, T* to, Index to_stride) {
    constexpr int n = lanes<T>;
    for (Index c = 0; c < columns; c += n) {
        const T* const factors = one_factor ? factor : factor + c;
        for (Index r = 0; r < rows; r += n) {
            const T* const square = from + r * from_stride + c;
            T* const target = to + c * to_stride + r;
            if (rows - r >= n && columns - c >= n)
                transpose_full<T>(square, from_stride, load(factors), target, to_stride);
            else
                transpose_part<T>(square, from_stride, rows - r < n ? rows - r : n,
                                  columns - c < n ? columns - c : n, factors, target, to_stride);
        }
    }
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

template <class T>
inline constexpr TileKernels<T> table = {
    HEED_ISA_OF_TABLE,
    lanes<T>,
    load_queries<T>,
    {scores<1, T>, scores<2, T>, scores<3, T>},
    {row_max<1, T>, row_max<2, T>, row_max<3, T>},
    {hide_outside<1, T>, hide_outside<2, T>, hide_outside<3, T>},
    {raise_max<1, T>, raise_max<2, T>, raise_max<3, T>},
    {exponentiate<1, T>, exponentiate<2, T>, exponentiate<3, T>},
    {rescale<1, T>, rescale<2, T>, rescale<3, T>},
    all_finite<T>,
    {values<1, T>, values<2, T>, values<3, T>},
    finish<T>,
};

#undef HEED_INLINE
