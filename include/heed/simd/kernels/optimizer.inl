// How does AdamW move a row of parameters?
// Part of layer_kernels.inl, whose rules hold here.

/// The compilers have no common name for the instruction, and where the lanes are taken one by one
/// they make calls of a function that could set errno.
#if defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_sqrt)
#define HEED_SQRT_FLOAT(x) __builtin_elementwise_sqrt(x)
#define HEED_SQRT_DOUBLE(x) __builtin_elementwise_sqrt(x)
#endif
#endif
#if defined(HEED_SQRT_FLOAT) || !HEED_HAS_X86_KERNELS
#elif HEED_VECTOR_BYTES == 64 && defined(__clang__)
#define HEED_SQRT_FLOAT(x) __builtin_ia32_sqrtps512(x, 4)
#define HEED_SQRT_DOUBLE(x) __builtin_ia32_sqrtpd512(x, 4)
#elif HEED_VECTOR_BYTES == 64
#define HEED_SQRT_FLOAT(x) __builtin_ia32_sqrtps512_mask(x, x, static_cast<unsigned short>(-1), 4)
#define HEED_SQRT_DOUBLE(x) __builtin_ia32_sqrtpd512_mask(x, x, static_cast<unsigned char>(-1), 4)
#elif HEED_VECTOR_BYTES == 32
#define HEED_SQRT_FLOAT(x) __builtin_ia32_sqrtps256(x)
#define HEED_SQRT_DOUBLE(x) __builtin_ia32_sqrtpd256(x)
#else
#define HEED_SQRT_FLOAT(x) __builtin_ia32_sqrtps(x)
#define HEED_SQRT_DOUBLE(x) __builtin_ia32_sqrtpd(x)
#endif

#if defined(HEED_SQRT_FLOAT)
HEED_INLINE Pack<float> square_root(Pack<float> x) {
    return HEED_SQRT_FLOAT(x);
}
HEED_INLINE Pack<double> square_root(Pack<double> x) {
    return HEED_SQRT_DOUBLE(x);
}
#undef HEED_SQRT_FLOAT
#undef HEED_SQRT_DOUBLE
#else
template <class P>
HEED_INLINE P square_root(P x) {
    for (unsigned i = 0; i < sizeof(P) / sizeof(x[0]); ++i) x[i] = std::sqrt(x[i]);
    return x;
}
#endif

template <class T>
HEED_INLINE void move(const AdamWStep<T>& s, Pack<T>& w, Pack<T> g, Pack<T>& m, Pack<T>& v) {
    m = m + broadcast(s.share1) * (g - m);
    v = broadcast(s.beta2) * v + broadcast(s.share2) * g * g;
    const Pack<T> root = square_root(v) / broadcast(s.root) + broadcast(s.epsilon);
    w = broadcast(s.keep) * w - broadcast(s.rate) * m / root;
}

template <class T>
void adamw(const AdamWStep<T>& step, Index count, T* w, const T* g, T* m, T* v) {
    Index c = 0;
    for (; c + lanes<T> <= count; c += lanes<T>) {
        Pack<T> parameter = load(w + c), mean = load(m + c), square = load(v + c);
        move<T>(step, parameter, load(g + c), mean, square);
        store(w + c, parameter);
        store(m + c, mean);
        store(v + c, square);
    }
    if (c == count) return;
    const Index rest = count - c;
    Pack<T> parameter = load_some(w + c, rest), mean = load_some(m + c, rest),
            square = load_some(v + c, rest);
    move<T>(step, parameter, load_some(g + c, rest), mean, square);
    store_some(w + c, parameter, rest);
    store_some(m + c, mean, rest);
    store_some(v + c, square, rest);
}
