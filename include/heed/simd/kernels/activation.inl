// What are the activations of ops/activation.hpp, and their derivatives, on lanes?
// Part of layer_kernels.inl, whose rules hold here.

template <class T>
HEED_INLINE Pack<T> exp_of(Pack<T> x) {
    exp<1, T>(&x);
    return x;
}

/// sigmoid(x) and sigmoid(-x) = 1 - sigmoid(x), each with its full relative accuracy: the
/// exponential is at most 1.
template <class T>
struct Sigmoids {
    Pack<T> of, of_minus;

    HEED_INLINE explicit Sigmoids(Pack<T> x) {
        const Pack<T> zero{}, one = broadcast(T(1));
        const Pack<T> e = exp_of<T>(x < zero ? x : -x);
        const Pack<T> larger = one / (one + e), smaller = e * larger;
        of = x < zero ? smaller : larger;
        of_minus = x < zero ? larger : smaller;
    }
};

/// (1 - distribution) / density of the standard normal at a >= 0, over sqrt(2 pi): t p(t) with
/// t = 1 / (1 + c a). The polynomials interpolate at Chebyshev points; their relative errors are
/// 4e-8 for a <= 14.5 and 2e-17 for a <= 39, beyond which the density is 0.
HEED_INLINE Pack<float> normal_tail(Pack<float> a) {
    constexpr float c[] = {1.39618635e-1f,  1.39914334e-1f,  1.19425093e-1f,
                           1.07212499e-1f,  -2.73219106e-2f, 1.65510165e-1f,
                           -2.61410543e-1f, 1.46783986e-1f,  -2.97322758e-2f};
    const Pack<float> t = broadcast(1.0f) / (broadcast(1.0f) + broadcast(0.35f) * a);
    Pack<float> p;
    polynomial<1>(c, &t, &p);
    return t * p;
}
HEED_INLINE Pack<double> normal_tail(Pack<double> a) {
    constexpr double c[] = {
        0.07978845608543740179,    0.079788455732291654104,  0.076596928728323959371,
        0.070213631291937387249,   0.061025013173786167734,  0.049760496814532173896,
        0.037789805115677044248,   0.024422616078110833869,  0.020782576778869772441,
        -0.014470308809167369904,  0.066802618688950472438,  -0.16364119233282946893,
        0.32576358258622076286,    -0.53599109949962935247,  0.69768937910386590897,
        -0.71625895043124187124,   0.56349851858856936972,   -0.32268406118763169694,
        0.1249483840957035211,     -0.028057274351460144996, 0.0016358069216465520925,
        0.00072980669006281531572, -0.0001331898620258936926};
    const Pack<double> t = broadcast(1.0) / (broadcast(1.0) + broadcast(0.2) * a);
    Pack<double> p;
    polynomial<1>(c, &t, &p);
    return t * p;
}

/// Distribution and density of the standard normal, the density times sqrt(2 pi).
template <class T>
struct Normal {
    Pack<T> distribution, density;

    HEED_INLINE explicit Normal(Pack<T> x) {
        const Pack<T> zero{}, a = x < zero ? -x : x;
        density = exp_of<T>(a * a * broadcast(T(-0.5)));
        const Pack<T> tail = density * normal_tail(a);
        distribution = x < zero ? tail : broadcast(T(1)) - tail;
    }
};

/// x * factor, 0 where the factor is: also for an infinite x.
template <class T>
HEED_INLINE Pack<T> times_vanishing(Pack<T> x, Pack<T> factor) {
    return factor == Pack<T>{} ? Pack<T>{} : x * factor;
}

template <class T>
inline constexpr T gelu_tanh_cube = T(0.044715);
/// 2 sqrt(2 / pi)
template <class T>
inline constexpr T gelu_tanh_root = T(1.5957691216057307118);

/// y = act(x), and its derivative at x.
template <Activation kind, class T>
struct Act;

template <class T>
struct Act<Activation::none, T> {
    HEED_INLINE static Pack<T> value(Pack<T> x) { return x; }
    HEED_INLINE static Pack<T> slope(Pack<T>) { return broadcast(T(1)); }
};

template <class T>
struct Act<Activation::relu, T> {
    HEED_INLINE static Pack<T> value(Pack<T> x) { return x < Pack<T>{} ? Pack<T>{} : x; }
    HEED_INLINE static Pack<T> slope(Pack<T> x) {
        const Pack<T> step = x > Pack<T>{} ? broadcast(T(1)) : Pack<T>{};
        return x == x ? step : x;
    }
};

template <class T>
struct Act<Activation::gelu, T> {
    HEED_INLINE static Pack<T> value(Pack<T> x) {
        return times_vanishing<T>(x, Normal<T>(x).distribution);
    }
    HEED_INLINE static Pack<T> slope(Pack<T> x) {
        const Normal<T> normal(x);
        const Pack<T> density = normal.density * broadcast(T(0.39894228040143267794));
        return normal.distribution + times_vanishing<T>(x, density);
    }
};

template <class T>
struct Act<Activation::silu, T> {
    HEED_INLINE static Pack<T> value(Pack<T> x) { return times_vanishing<T>(x, Sigmoids<T>(x).of); }
    HEED_INLINE static Pack<T> slope(Pack<T> x) {
        const Sigmoids<T> s(x);
        return s.of + times_vanishing<T>(times_vanishing<T>(x, s.of_minus), s.of);
    }
};

/// x/2 (1 + tanh u) = x sigmoid(2u).
template <class T>
struct Act<Activation::gelu_tanh, T> {
    HEED_INLINE static Sigmoids<T> sigmoids(Pack<T> x) {
        const Pack<T> cubic = broadcast(T(1)) + broadcast(gelu_tanh_cube<T>) * x * x;
        return Sigmoids<T>(broadcast(gelu_tanh_root<T>) * x * cubic);
    }
    HEED_INLINE static Pack<T> value(Pack<T> x) { return times_vanishing<T>(x, sigmoids(x).of); }
    HEED_INLINE static Pack<T> slope(Pack<T> x) {
        const Sigmoids<T> s = sigmoids(x);
        const Pack<T> change = broadcast(gelu_tanh_root<T>) *
                               (broadcast(T(1)) + broadcast(3 * gelu_tanh_cube<T>) * x * x);
        // Where the product of the sigmoids vanishes, x^3 may be infinite.
        return s.of + times_vanishing<T>(x * change, s.of * s.of_minus);
    }
};

template <Activation kind, class T>
struct Value {
    HEED_INLINE Pack<T> operator()(Pack<T> x) const { return Act<kind, T>::value(x); }
};
template <Activation kind, class T>
struct Gradient {
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> dy) const {
        return dy * Act<kind, T>::slope(x);
    }
};

template <Activation kind, class T>
void activate_as(T* x, Index count) {
    map(Value<kind, T>(), count, x, static_cast<const T*>(x));
}
template <Activation kind, class T>
void gradient_as(const T* x, const T* dy, Index count, T* dx) {
    map(Gradient<kind, T>(), count, dx, x, dy);
}

template <class T>
void activate(Activation activation, T* x, Index count) {
    switch (activation) {
        case Activation::none:
            return;
        case Activation::relu:
            return activate_as<Activation::relu>(x, count);
        case Activation::gelu:
            return activate_as<Activation::gelu>(x, count);
        case Activation::gelu_tanh:
            return activate_as<Activation::gelu_tanh>(x, count);
        case Activation::silu:
            return activate_as<Activation::silu>(x, count);
    }
}

template <class T>
void activation_gradient(Activation activation, const T* x, const T* dy, Index count, T* dx) {
    switch (activation) {
        case Activation::none:
            return gradient_as<Activation::none>(x, dy, count, dx);
        case Activation::relu:
            return gradient_as<Activation::relu>(x, dy, count, dx);
        case Activation::gelu:
            return gradient_as<Activation::gelu>(x, dy, count, dx);
        case Activation::gelu_tanh:
            return gradient_as<Activation::gelu_tanh>(x, dy, count, dx);
        case Activation::silu:
            return gradient_as<Activation::silu>(x, dy, count, dx);
    }
}
