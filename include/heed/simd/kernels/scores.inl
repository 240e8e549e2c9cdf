// How are scores changed or hidden before the softmax?
// Part of tile_kernels.inl, whose rules hold here.

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
