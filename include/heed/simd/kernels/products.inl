// How is C[r][lanes] (+)= sum_k A(r, k) * B[k][lanes] computed, A read as scalars through two
// strides?
// Part of tile_kernels.inl, whose rules hold here.

/// Rows of C that stay in registers together with one row of B and one scalar of A.
template <int width>
inline constexpr int rows_at_once = HEED_VECTOR_REGISTERS == 32 ? (width == 3   ? 8
                                                                   : width == 2 ? 8
                                                                                : 16)
                                                                : (width == 3   ? 4
                                                                   : width == 2 ? 6
                                                                                : 8);

/// Terms of long sums in one step of a loop: two spare some counting, but with few registers they
/// would drive sums from them.
inline constexpr int terms_at_once = HEED_VECTOR_REGISTERS == 32 ? 2 : 1;

/// Brings a cache line into the second-level cache.
HEED_INLINE void ask_for(std::uintptr_t address) {
    __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

/// Brings the rows that will soon be written into the first-level cache, as this core's alone where
/// the instruction set can say so.
HEED_INLINE void ask_to_write(LinesAhead& ahead, Index asks) {
    for (LinesAhead::Written& written : ahead.written()) {
        const LinesAhead::Written::Lines lines = written.take(asks);
        for (Index n = 0; n < lines.count; ++n)
            __builtin_prefetch(reinterpret_cast<const void*>(
                                   lines.first + static_cast<std::uintptr_t>(n * lines.step)),
                               1);
    }
}

/// What a product does with C beside computing it.
enum class Product { scores, accumulate, begin };

/// Of the terms of a sum: so many parts of A, each so far behind the one before.
struct Parts {
    Index count = 1;
    Index step = 0;
};

/// `terms`: in one step of the loop, 1 or 2. `count`: of the terms of a part.
template <int rows, int width, Product kind, int terms, class T>
HEED_INLINE void product_block(const T* a, Index row_stride, Index step, const T* b, Index b_row,
                               Index count, Parts parts, T* c, Index c_row, Pack<T>* largest,
                               LinesAhead& ahead) {
    // A single row waits for memory itself, and asking would only make it wait longer.
    constexpr bool asks = rows > 1;
    if constexpr (asks) ask_to_write(ahead, parts.count * count);
    Pack<T> sum[rows][width];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w)
            sum[r][w] =
                kind == Product::accumulate ? load(c + r * c_row + w * lanes<T>) : Pack<T>{};
    // Rows in two halves, so that fewer multiples of their stride are needed.
    constexpr int half = rows / 2;
    const T* upper = a + half * row_stride;
    LinesAhead::Walk lines{};
    const auto multiply_add = [&](Index k) __attribute__((always_inline)) {
        if constexpr (asks) {
            ask_for(lines.first);
            lines.first += lines.step;
        }
        Pack<T> from_b[width];
#pragma GCC unroll 3
        for (int w = 0; w < width; ++w) from_b[w] = load(b + k * b_row + w * lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const T* const from = r < half ? a + r * row_stride : upper + (r - half) * row_stride;
            const Pack<T> from_a = broadcast(from[k * step]);
#pragma GCC unroll 3
            for (int w = 0; w < width; ++w) sum[r][w] = sum[r][w] + from_a * from_b[w];
        }
    };
    const auto go_on = [&](int done) __attribute__((always_inline)) {
        a += done * step;
        upper += done * step;
        b += done * b_row;
    };
    for (Index left = count; left > 0;) {
        if constexpr (asks) lines = ahead.take(left);
        Index some = asks ? lines.count : left;
        left -= some;
// Tuned for some processors, clang would unroll it, and run out of registers for the sums.
#if defined(__clang__)
#pragma clang loop unroll(disable)
#endif
        for (; some >= terms; some -= terms) {
#pragma GCC unroll 2
            for (int k = 0; k < terms; ++k) multiply_add(k);
            go_on(terms);
        }
        if (terms > 1 && some > 0) {
            multiply_add(0);
            go_on(1);
        }
        if (left == 0 && --parts.count > 0) {
            left = count;
            a += parts.step - count * step;
            upper += parts.step - count * step;
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
template <int rows, int width, Product kind, int terms, class T>
HEED_INLINE void product_rows(const T* a, Index row_stride, Index step, Index total, const T* b,
                              Index b_row, Index count, Parts parts, T* c, Index c_row,
                              Pack<T>* largest, LinesAhead& ahead) {
    Index r = 0;
    for (; r + rows <= total; r += rows)
        product_block<rows, width, kind, terms>(a + r * row_stride, row_stride, step, b, b_row,
                                                count, parts, c + r * c_row, c_row, largest, ahead);
    if constexpr (rows > 1)
        product_rows<rows / 2, width, kind, terms>(a + r * row_stride, row_stride, step, total - r,
                                                   b, b_row, count, parts, c + r * c_row, c_row,
                                                   largest, ahead);
}

template <int width, class T>
void scores(const T* k, Index stride, Index keys, Index head_dim, const T* queries, T* scores,
            Index row, T* tile_max, LinesAhead& ahead) {
    Pack<T> largest[width];
    for (int w = 0; w < width; ++w) largest[w] = broadcast(-std::numeric_limits<T>::infinity());
    product_rows<rows_at_once<width>, width, Product::scores, 1>(
        k, stride, 1, keys, queries, row, head_dim, Parts{}, scores, row, largest, ahead);
    for (int w = 0; w < width; ++w) store(tile_max + w * lanes<T>, largest[w]);
}

template <int width, class T>
void values(const T* v, Index stride, Index keys, Index value_dim, const T* weights, T* out,
            Index row, LinesAhead& ahead) {
    product_rows<rows_at_once<width>, width, Product::accumulate, 1>(
        v, 1, stride, value_dim, weights, row, keys, Parts{}, out, row,
        static_cast<Pack<T>*>(nullptr), ahead);
}

template <int width, Product kind, class T>
void weighted_sums(const T* weights, Index weight_row, Index count, const T* rows, Index row,
                   Index terms, T* sums, Index sum_row, LinesAhead& ahead) {
    product_rows<rows_at_once<width>, width, kind, terms_at_once>(
        weights, weight_row, 1, count, rows, row, terms, Parts{}, sums, sum_row,
        static_cast<Pack<T>*>(nullptr), ahead);
}

template <int width, class T>
void weighted_sums_of_parts(const T* weights, Index weight_row, Index count, Index parts,
                            Index part_step, const T* rows, Index row, Index terms, T* sums,
                            Index sum_row, LinesAhead& ahead) {
    product_rows<rows_at_once<width>, width, Product::accumulate, terms_at_once>(
        weights, weight_row, 1, count, rows, row, terms, Parts{parts, part_step}, sums, sum_row,
        static_cast<Pack<T>*>(nullptr), ahead);
}

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
