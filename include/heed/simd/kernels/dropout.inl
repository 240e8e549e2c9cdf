// Which weights does dropout keep?
// Philox4x32-10 (tensor/philox.hpp) for one counter to each lane.
// Part of tile_kernels.inl, whose rules hold here.

/// 64-bit lanes whose low halves are the 32-bit words of Philox; the high halves hold anything.
typedef std::uint64_t Words __attribute__((vector_size(HEED_VECTOR_BYTES)));

HEED_INLINE Words words(std::uint64_t value) {
    return value - Words{};
}

/// The 64-bit products of the low halves. GCC does not see by itself that one instruction does it.
HEED_INLINE Words multiply_low_halves(Words a, Words b) {
#if HEED_HAS_X86_KERNELS && !defined(__clang__) && HEED_VECTOR_BYTES == 64
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    typedef long long Products __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq512_mask((Halves)a, (Halves)b, Products{},
                                                 static_cast<unsigned char>(-1));
#elif HEED_HAS_X86_KERNELS && !defined(__clang__) && HEED_VECTOR_BYTES == 32
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq256((Halves)a, (Halves)b);
#elif HEED_HAS_X86_KERNELS && !defined(__clang__)
    typedef int Halves __attribute__((vector_size(HEED_VECTOR_BYTES)));
    return (Words)__builtin_ia32_pmuludq128((Halves)a, (Halves)b);
#else
    const Words low = words(0xffffffffu);
    return (a & low) * (b & low);
#endif
}

HEED_INLINE void philox_rounds(Words* counter, PhiloxKey key) {
    for (int round = 0; round < 10; ++round) {
        const Words product0 = multiply_low_halves(counter[0], words(0xD2511F53));
        const Words product1 = multiply_low_halves(counter[2], words(0xCD9E8D57));
        counter[0] = (product1 >> 32) ^ counter[1] ^ words(key[0]);
        counter[1] = product1;
        counter[2] = (product0 >> 32) ^ counter[3] ^ words(key[1]);
        counter[3] = product0;
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
}

/// The four words of one block of keys for a register of queries, in the type of its lanes.
HEED_INLINE void random_words(const DropoutTile& at, std::uint64_t block, std::uint32_t query,
                              Words* bits, float /*lane type*/) {
    Words even[4], odd[4], offsets;
    for (int i = 0; i < lanes<double>; ++i) offsets[i] = 2 * static_cast<std::uint64_t>(i);
    const Words queries = offsets + words(query);
    for (int word = 0; word < 4; ++word)
        even[word] = odd[word] = words(word == 0 ? block : word == 2 ? at.head : at.call);
    even[1] = queries;
    odd[1] = queries + words(1);
    philox_rounds(even, at.philox_key);
    philox_rounds(odd, at.philox_key);
    for (int word = 0; word < 4; ++word)
        bits[word] = (even[word] & words(0xffffffffu)) | (odd[word] << 32);
}
HEED_INLINE void random_words(const DropoutTile& at, std::uint64_t block, std::uint32_t query,
                              Words* bits, double /*lane type*/) {
    Words offsets;
    for (int i = 0; i < lanes<double>; ++i) offsets[i] = static_cast<std::uint64_t>(i);
    bits[0] = words(block);
    bits[1] = offsets + words(query);
    bits[2] = words(at.head);
    bits[3] = words(at.call);
    philox_rounds(bits, at.philox_key);
    for (int word = 0; word < 4; ++word) bits[word] &= words(0xffffffffu);
}

/// Dropped is what has no more than these 32 bits: at least `threshold` is more than threshold - 1,
/// which has 32 bits even for 2^32.
template <class T>
HEED_INLINE WrappingBits<T> last_dropped(const DropoutTile& at) {
    return static_cast<std::uint32_t>(at.threshold - 1) - WrappingBits<T>{};
}

template <class T>
void drop(T* weights, Index row, Index keys, const DropoutTile& at, T scale) {
    const WrappingBits<T> last = last_dropped<T>(at);
    const std::uint64_t end_key = at.first_key + static_cast<std::uint64_t>(keys);
    for (std::uint64_t block = at.first_key / 4; block * 4 < end_key; ++block)
        for (Index i = 0; i < row; i += lanes<T>) {
            Words bits[4];
            random_words(at, block, at.first_query + static_cast<std::uint32_t>(i), bits, T());
            for (std::uint64_t word = 0; word < 4; ++word) {
                const std::uint64_t key = block * 4 + word;
                if (key < at.first_key || key >= end_key) continue;
                T* const place = weights + static_cast<Index>(key - at.first_key) * row + i;
                const auto kept = (WrappingBits<T>)bits[word] > last;
                store(place, kept ? load(place) * broadcast(scale) : Pack<T>{});
            }
        }
}
