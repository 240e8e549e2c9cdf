// How are rows, diagonals and lanes of a tile summed up, and is there poison in it?
// Part of tile_kernels.inl, whose rules hold here.

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
