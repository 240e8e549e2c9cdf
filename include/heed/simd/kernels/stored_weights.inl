// How do weights that are stored in fewer bits become floats?
// Part of weight_kernels.inl, whose rules hold here.

typedef std::uint16_t Halfs
    __attribute__((vector_size(HEED_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef std::int8_t Quarters
    __attribute__((vector_size(HEED_VECTOR_BYTES / 4), aligned(1), may_alias));

HEED_INLINE WrappingBits<float> load_halfs(const void* from) {
    return __builtin_convertvector(*static_cast<const Halfs*>(from), WrappingBits<float>);
}

HEED_INLINE Pack<float> load_stored(const bfloat16* from) {
    return (Pack<float>)(load_halfs(from) << 16);
}

/// Half has 5 bits of exponent and 10 of mantissa: shifted into a float's places the exponent is
/// 112 too small, which a product mends for numbers below the normal range, too.
HEED_INLINE Pack<float> load_stored(const half* from) {
    const WrappingBits<float> bits = load_halfs(from);
    const WrappingBits<float> magnitude = (bits & 0x7fff) << 13;
    const Pack<float> finite = (Pack<float>)magnitude * broadcast(0x1p112f);
    // Infinity and NaN keep the largest exponent.
    const WrappingBits<float> special = magnitude | 0x7f800000;
    const Pack<float> value = (Bits<float>)magnitude >= 0x0f800000 ? (Pack<float>)special : finite;
    return (Pack<float>)((WrappingBits<float>)value | ((bits & 0x8000) << 16));
}

HEED_INLINE Pack<float> load_stored(const std::int8_t* from) {
    const Bits<float> whole =
        __builtin_convertvector(*reinterpret_cast<const Quarters*>(from), Bits<float>);
    return __builtin_convertvector(whole, Pack<float>);
}

template <class W>
void widen(const W* from, Index count, float* to) {
    for (Index n = 0; n < count; n += lanes<float>) store(to + n, load_stored(from + n));
}

template <int rows, int width, class W>
HEED_INLINE void multiply_stored_rows(const float* x, Index x_row, const W* panel, Index row,
                                      Index terms, float* sums, Index sum_row) {
    Pack<float> sum[rows][width];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) sum[r][w] = load(sums + r * sum_row + w * lanes<float>);
#if defined(__clang__)
#pragma clang loop unroll(disable)
#endif
    for (Index k = 0; k < terms; ++k) {
        Pack<float> weight[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) weight[w] = load_stored(panel + k * row + w * lanes<float>);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            const Pack<float> from_x = broadcast(x[r * x_row + k]);
#pragma GCC unroll 3
            for (int w = 0; w < width; ++w) sum[r][w] = sum[r][w] + from_x * weight[w];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) store(sums + r * sum_row + w * lanes<float>, sum[r][w]);
}

/// As many rows at once as fit beside a row of weights, then half as many, and so on.
template <int rows, int width, class W>
HEED_INLINE void multiply_stored_all(const float* x, Index x_row, Index total, const W* panel,
                                     Index row, Index terms, float* sums, Index sum_row) {
    Index r = 0;
    for (; r + rows <= total; r += rows)
        multiply_stored_rows<rows, width>(x + r * x_row, x_row, panel, row, terms,
                                          sums + r * sum_row, sum_row);
    if constexpr (rows > 1)
        multiply_stored_all<rows / 2, width>(x + r * x_row, x_row, total - r, panel, row, terms,
                                             sums + r * sum_row, sum_row);
}

template <int width, class W>
void multiply_stored(const float* x, Index x_row, Index rows, const W* panel, Index row,
                     Index terms, float* sums, Index sum_row) {
    constexpr int at_once = HEED_VECTOR_REGISTERS == 32 ? 8 : 4;
    multiply_stored_all<at_once, width>(x, x_row, rows, panel, row, terms, sums, sum_row);
}
