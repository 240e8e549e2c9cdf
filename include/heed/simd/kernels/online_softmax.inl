// How does each lane pass over its scores?
// Online softmax: Milakov, Gimelshein, arXiv 1805.02867.
// Part of tile_kernels.inl, whose rules hold here.

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
