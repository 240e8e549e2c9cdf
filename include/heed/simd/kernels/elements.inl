// How does one pass over a row whose length is no multiple of a register?
// Part of layer_kernels.inl, whose rules hold here. An operation is an object that is called with a
// pack of each row; what is behind whole registers goes through one that is partly filled.

template <class T>
HEED_INLINE Pack<T> load_some(const T* from, Index count, T filler = T(0)) {
    T elements[lanes<T>];
    store(elements, broadcast(filler));
    for (Index i = 0; i < count; ++i) elements[i] = from[i];
    return load(elements);
}
template <class T>
HEED_INLINE void store_some(T* to, Pack<T> pack, Index count) {
    T elements[lanes<T>];
    store(elements, pack);
    for (Index i = 0; i < count; ++i) to[i] = elements[i];
}

/// to[c] = operation(from[c], ..) for c < count.
template <class T, class Operation, class... From>
HEED_INLINE void map(const Operation& operation, Index count, T* to, const From*... from) {
    Index c = 0;
    for (; c + lanes<T> <= count; c += lanes<T>) store(to + c, operation(load(from + c)...));
    if (c < count) store_some(to + c, operation(load_some(from + c, count - c)...), count - c);
}

/// The sum over the lanes, first to last.
template <class T>
HEED_INLINE T sum_of_lanes(Pack<T> pack) {
    T sum = 0;
    for (int i = 0; i < lanes<T>; ++i) sum += pack[i];
    return sum;
}

/// sum_c operation(from[c], ..), where a row of fillers would give 0. Four sums, for each waits for
/// its own last step.
template <class T, class Operation, class... From>
HEED_INLINE T reduce(const Operation& operation, T filler, Index count, const From*... from) {
    Pack<T> sums[4] = {};
    Index c = 0;
    for (; c + 4 * lanes<T> <= count; c += 4 * lanes<T>)
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) sums[n] = sums[n] + operation(load(from + c + n * lanes<T>)...);
    for (; c + lanes<T> <= count; c += lanes<T>) sums[0] = sums[0] + operation(load(from + c)...);
    if (c < count) sums[1] = sums[1] + operation(load_some(from + c, count - c, filler)...);
    return sum_of_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

struct Add {
    template <class P>
    HEED_INLINE P operator()(P from, P to) const {
        return to + from;
    }
};
struct Multiply {
    template <class P>
    HEED_INLINE P operator()(P from, P to) const {
        return to * from;
    }
};
template <class T>
struct MultiplyBy {
    T factor;
    HEED_INLINE Pack<T> operator()(Pack<T> x) const { return x * broadcast(factor); }
};
struct Identity {
    template <class P>
    HEED_INLINE P operator()(P x) const {
        return x;
    }
};
template <class T>
struct SquareFrom {
    T shift;
    HEED_INLINE Pack<T> operator()(Pack<T> x) const {
        const Pack<T> difference = x - broadcast(shift);
        return difference * difference;
    }
};

template <class T>
void add(const T* from, Index count, T* to) {
    map(Add(), count, to, from, static_cast<const T*>(to));
}
template <class T>
void multiply(const T* from, Index count, T* to) {
    map(Multiply(), count, to, from, static_cast<const T*>(to));
}
template <class T>
void scale(T factor, Index count, T* to) {
    map(MultiplyBy<T>{factor}, count, to, static_cast<const T*>(to));
}
template <class T>
T sum(const T* x, Index count) {
    return reduce(Identity(), T(0), count, x);
}
template <class T>
T squares(const T* x, Index count, T shift) {
    return reduce(SquareFrom<T>{shift}, shift, count, x);
}

/// As many elements of a row as a register has lanes of double.
HEED_INLINE Pack<double> load_wide(const double* from) {
    return load(from);
}
HEED_INLINE Pack<double> load_wide(const float* from) {
    typedef float Half __attribute__((vector_size(HEED_VECTOR_BYTES / 2), aligned(4), may_alias));
    return __builtin_convertvector(*reinterpret_cast<const Half*>(from), Pack<double>);
}

template <class T>
double wide_squares(const T* x, Index count) {
    Pack<double> sums[2] = {};
    Index c = 0;
    for (; c + 2 * lanes<double> <= count; c += 2 * lanes<double>)
#pragma GCC unroll 2
        for (int n = 0; n < 2; ++n) {
            const Pack<double> wide = load_wide(x + c + n * lanes<double>);
            sums[n] = sums[n] + wide * wide;
        }
    double rest = 0;
    for (; c < count; ++c) rest += static_cast<double>(x[c]) * static_cast<double>(x[c]);
    return sum_of_lanes<double>(sums[0] + sums[1]) + rest;
}
