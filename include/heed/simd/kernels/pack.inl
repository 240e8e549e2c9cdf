// What is a register, and how does it meet memory?
// Part of tile_kernels.inl, whose rules hold here.

template <class T>
struct PackOf;
template <>
struct PackOf<float> {
    typedef float type __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef float unaligned __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(4), may_alias));
    typedef std::int32_t bits __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef std::uint32_t words __attribute__((vector_size(HEED_VECTOR_BYTES)));
};
template <>
struct PackOf<double> {
    typedef double type __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef double unaligned __attribute__((vector_size(HEED_VECTOR_BYTES), aligned(8), may_alias));
    typedef std::int64_t bits __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef std::uint64_t words __attribute__((vector_size(HEED_VECTOR_BYTES)));
};

template <class T>
using Pack = typename PackOf<T>::type;
template <class T>
using Bits = typename PackOf<T>::bits;
/// Bits whose sums may wrap.
template <class T>
using WrappingBits = typename PackOf<T>::words;

template <class T>
inline constexpr int lanes = HEED_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
HEED_INLINE Pack<T> load(const T* from) {
    return *reinterpret_cast<const typename PackOf<T>::unaligned*>(from);
}
template <class T>
HEED_INLINE void store(T* to, Pack<T> pack) {
    *reinterpret_cast<typename PackOf<T>::unaligned*>(to) = pack;
}
template <class T>
HEED_INLINE Pack<T> broadcast(T value) {
    return value - Pack<T>{};  // x - 0 is x, also for -0
}
