// How is a row normalised, and how does its gradient go back?
// Part of layer_kernels.inl, whose rules hold here.

template <class T>
struct Normalised {
    RowScale<T> by;
    HEED_INLINE Pack<T> operator()(Pack<T> x) const {
        return (x - broadcast(by.shift)) * broadcast(by.factor);
    }
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> weight) const { return (*this)(x)*weight; }
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> weight, Pack<T> bias) const {
        return (*this)(x)*weight + bias;
    }
};
template <class T>
struct NormalisedWithBias {
    Normalised<T> norm;
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> bias) const { return norm(x) + bias; }
};

template <class T>
void scale_row(const T* x, Index count, RowScale<T> by, const T* weight, const T* bias, T* y) {
    const Normalised<T> norm{by};
    if (weight != nullptr && bias != nullptr)
        map(norm, count, y, x, weight, bias);
    else if (weight != nullptr)
        map(norm, count, y, x, weight);
    else if (bias != nullptr)
        map(NormalisedWithBias<T>{norm}, count, y, x, bias);
    else
        map(norm, count, y, x);
}

/// s n, and s itself.
template <class T>
struct SlopeTimesNormalised {
    Normalised<T> norm;
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> dy) const { return dy * norm(x); }
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> dy, Pack<T> weight) const {
        return dy * weight * norm(x);
    }
};
struct Product2 {
    template <class P>
    HEED_INLINE P operator()(P a, P b) const {
        return a * b;
    }
};

template <class T>
void norm_sums(const T* x, const T* dy, const T* weight, Index count, RowScale<T> by, T* sums) {
    const SlopeTimesNormalised<T> product{{by}};
    if (weight != nullptr) {
        sums[0] = reduce(Product2(), T(0), count, dy, weight);
        sums[1] = reduce(product, T(0), count, x, dy, weight);
    } else {
        sums[0] = reduce(Identity(), T(0), count, dy);
        sums[1] = reduce(product, T(0), count, x, dy);
    }
}

template <class T>
struct NormGradient {
    Normalised<T> norm;
    T mean, along;
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> slope) const {
        return broadcast(norm.by.factor) * (slope - broadcast(mean) - norm(x) * broadcast(along));
    }
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> dy, Pack<T> weight) const {
        return (*this)(x, dy * weight);
    }
};

template <class T>
void norm_gradient(const T* x, const T* dy, const T* weight, Index count, RowScale<T> by, T mean,
                   T along, T* dx) {
    const NormGradient<T> gradient{{by}, mean, along};
    if (weight != nullptr)
        map(gradient, count, dx, x, dy, weight);
    else
        map(gradient, count, dx, x, dy);
}

template <class T>
struct AddWeightGradient {
    Normalised<T> norm;
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> dy, Pack<T> sum) const {
        return sum + dy * norm(x);
    }
};

template <class T>
void norm_parameters(const T* x, const T* dy, Index count, RowScale<T> by, T* dweight, T* dbias) {
    if (dweight != nullptr)
        map(AddWeightGradient<T>{{by}}, count, dweight, x, dy, static_cast<const T*>(dweight));
    if (dbias != nullptr) add(dy, count, dbias);
}
