// Which entries of a row does dropout keep?
// Philox4x32-10 as in dropout.inl, for neighbours that share a counter instead of a query to a
// lane. Part of layer_kernels.inl, whose rules hold here.

/// Entries whose bits are drawn together: four for each lane of two registers of counters, since
/// each round of Philox waits for the one before.
inline constexpr Index entries_at_once = 8 * lanes<double>;

/// The 32 random bits of each entry from 4 * block on, as the bits of a T.
template <class T>
HEED_INLINE void entry_bits(const DropoutTile& at, std::uint64_t block, T* bits) {
    using Unsigned = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    Words offsets;
    for (int i = 0; i < lanes<double>; ++i) offsets[i] = static_cast<std::uint64_t>(i);
    Words counters[2][4];
    for (auto& counter : counters) {
        counter[0] = offsets + words(block);
        counter[1] = counter[0] >> 32;
        counter[2] = words(at.head);
        counter[3] = words(at.call);
        offsets += words(lanes<double>);
    }
    for (auto& counter : counters) philox_rounds(counter, at.philox_key);
    for (const auto& counter : counters)
        for (int i = 0; i < lanes<double>; ++i)
            for (int word = 0; word < 4; ++word)
                *bits++ = std::bit_cast<T>(
                    static_cast<Unsigned>(static_cast<std::uint32_t>(counter[word][i])));
}

/// Entries times scale, or 0 where their bits say so; and what they are added to.
template <class T>
struct Drop {
    const DropoutTile& at;
    T scale;

    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> bits) const {
        const auto kept = (WrappingBits<T>)bits > last_dropped<T>(at);
        return kept ? x * broadcast(scale) : Pack<T>{};
    }
    HEED_INLINE Pack<T> operator()(Pack<T> x, Pack<T> bits, Pack<T> residual) const {
        return residual + (*this)(x, bits);
    }
};

template <class T>
void drop_entries(const T* x, const T* residual, Index count, const DropoutTile& at, T scale,
                  T* y) {
    T bits[entries_at_once];
    for (Index c = 0; c < count;) {
        const std::uint64_t entry = at.first_key + static_cast<std::uint64_t>(c);
        entry_bits(at, entry / 4, bits);
        const auto begun = static_cast<Index>(entry % 4);
        const Index some = std::min(count - c, entries_at_once - begun);
        const Drop<T> drop{at, scale};
        if (residual == nullptr)
            map(drop, some, y + c, x + c, static_cast<const T*>(bits + begun));
        else
            map(drop, some, y + c, x + c, static_cast<const T*>(bits + begun), residual + c);
        c += some;
    }
}
