// How do gradients go from weights to scores?
// Part of tile_kernels.inl, whose rules hold here.

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
