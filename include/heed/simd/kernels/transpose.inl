// How do rows of the caller (one query after another) become lanes (one query beside another),
// and lanes rows?
// Part of tile_kernels.inl, whose rules hold here.

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
void add_to_rows(const T* tile, Index row, Index keys, Index queries, T* rows, Index stride) {
    T one[lanes<T>];
    store(one, broadcast(T(1)));
    transpose<true, Transposed::add>(tile, row, keys, queries, one, rows, stride);
}
