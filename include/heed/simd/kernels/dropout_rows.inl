// Which entries of a row does dropout keep?
// Philox4x32-10 as in dropout.inl, for neighbours that share a counter instead of a query to a
// lane. Part of layer_kernels.inl, whose rules hold here.

/// Entries whose bits are drawn together: four for each lane of two registers of counters, since
/// each round of Philox waits for the one before.
inline constexpr Index entries_at_once = 8 * lanes<double>;

/// The 32 random bits of each entry from 4 * block on, as integers of the width of an entry.
template <class Unsigned>
HEED_INLINE void entry_bits(const DropoutTile& at, std::uint64_t block, Unsigned* bits) {
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
                *bits++ = static_cast<std::uint32_t>(counter[word][i]);
}

template <class T>
void drop_entries(const T* x, const T* residual, Index count, const DropoutTile& at, T scale,
                  T* y) {
    using Unsigned = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    // As in drop: at least `threshold` is more than threshold - 1.
    const WrappingBits<T> last_dropped =
        static_cast<std::uint32_t>(at.threshold - 1) - WrappingBits<T>{};
    Unsigned bits[entries_at_once + lanes<T>] = {};
    for (Index c = 0; c < count;) {
        const std::uint64_t entry = at.first_key + static_cast<std::uint64_t>(c);
        entry_bits(at, entry / 4, bits);
        const auto begun = static_cast<Index>(entry % 4);
        const T* from = reinterpret_cast<const T*>(bits) + begun;
        const Index end = std::min(count, c + entries_at_once - begun);
        for (; c < end; c += lanes<T>, from += lanes<T>) {
            const Index some = std::min<Index>(lanes<T>, end - c);
            const bool whole = some == lanes<T>;
            const auto random = (WrappingBits<T>)load(from);
            const Pack<T> here = whole ? load(x + c) : load_some(x + c, some);
            Pack<T> result = random > last_dropped ? here * broadcast(scale) : Pack<T>{};
            if (residual != nullptr)
                result = (whole ? load(residual + c) : load_some(residual + c, some)) + result;
            if (whole)
                store(y + c, result);
            else
                store_some(y + c, result, some);
        }
        c = end;
    }
}
