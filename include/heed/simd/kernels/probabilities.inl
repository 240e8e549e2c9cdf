// What do the softmax and the cross-entropy of one row need?
// Part of layer_kernels.inl, whose rules hold here.

template <class T>
T largest(const T* x, Index count) {
    const T lowest = -std::numeric_limits<T>::infinity();
    Pack<T> most[4];
    for (int n = 0; n < 4; ++n) most[n] = broadcast(lowest);
    Index c = 0;
    for (; c + 4 * lanes<T> <= count; c += 4 * lanes<T>)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) {
            const Pack<T> here = load(x + c + n * lanes<T>);
            most[n] = here > most[n] ? here : most[n];
        }
    for (; c < count; c += lanes<T>) {
        const Pack<T> here =
            c + lanes<T> <= count ? load(x + c) : load_some(x + c, count - c, lowest);
        most[0] = here > most[0] ? here : most[0];
    }
    T result = lowest;
    for (int n = 0; n < 4; ++n)
        for (int i = 0; i < lanes<T>; ++i) result = most[n][i] > result ? most[n][i] : result;
    return result;
}

template <class T>
struct ExpOfDifference {
    T shift;
    HEED_INLINE Pack<T> operator()(Pack<T> x) const { return exp_of<T>(x - broadcast(shift)); }
};

template <class T>
T exponentials(const T* x, Index count, T shift, T* to) {
    const ExpOfDifference<T> operation{shift};
    if (to == nullptr) return reduce(operation, -std::numeric_limits<T>::infinity(), count, x);
    map(operation, count, to, x);
    return sum(static_cast<const T*>(to), count);
}
