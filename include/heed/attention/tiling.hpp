#pragma once
// Which tiles does an attention consist of, and which parts of them must be computed?
// Index arithmetic on what the masks answer, the same for the computation and for explain(). Writes
// the intervals of a tile's queries into the room that it is given, nothing else.

#include <algorithm>
#include <array>

#include "heed/attention/geometry.hpp"
#include "heed/simd/lane_tiling.hpp"

namespace heed::inline v0::detail {

/// Keys per tile: the tile of scores, the queries and the output stay in the nearest caches. Tiles
/// begin at multiples of it on the key axis, whatever a mask shows: the steps of the online
/// softmax, and with them the bits of the result, then depend on the visible keys alone, not on how
/// a sequence was cut into calls.
inline constexpr Index key_tile = 128;

/// Calls visit(KeyRange) for the part of each tile that lies in some keys, ascending.
template <class Visit>
void for_each_key_tile(const KeyRange& some, const Visit& visit) {
    for (Index first = some.begin, next; first < some.end; first = next) {
        next = std::min((first / key_tile + 1) * key_tile, some.end);
        visit(KeyRange{first, next});
    }
}

/// A short list without an allocation.
template <class T, std::size_t Capacity>
class StackVector {
  public:
    void clear() { size_ = 0; }
    void push_back(const T& value) { values_[size_++] = value; }
    /// Keeps an ascending list ascending.
    void insert_sorted(const T& value) {
        std::size_t place = size_++;
        for (; place > 0 && value < values_[place - 1]; --place)
            values_[place] = values_[place - 1];
        values_[place] = value;
    }
    void assign(const T& value) {
        clear();
        push_back(value);
    }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] const T& operator[](std::size_t i) const { return values_[i]; }
    [[nodiscard]] const T* begin() const { return values_.data(); }
    [[nodiscard]] const T* end() const { return values_.data() + size_; }

  private:
    std::array<T, Capacity> values_{};
    std::size_t size_ = 0;
};

/// Keys of a tile (counted from its first) and the registers of queries that see some of them.
struct TileStep {
    KeyRange keys;
    int first_register;
    int end_register;
};
using TileSteps = StackVector<TileStep, 2 * max_tile_width>;

/// The keys that a tile's queries see, as far as intervals tell.
class TileRanges {
  public:
    TileRanges() = default;

    /// `ranges` is room for one interval to a query, and must outlive this.
    template <class Rules>
    TileRanges(const Rules& rules, const ScoreIndex& first, Index queries, Index kv_len,
               KeyRange* ranges)
        : ranges_(ranges), queries_(queries), all_{0, kv_len} {
        for (Index i = 0; i < queries; ++i) {
            const KeyRange range = rules.range({first.b, first.h, first.q + i, 0}, {0, kv_len});
            ranges_[i] = range;
            all_ = all_.intersect(range);
            some_ = some_.hull(range);
        }
    }

    /// Beyond it no query sees a key.
    [[nodiscard]] const KeyRange& some() const { return some_; }
    /// True when every query sees all of these keys.
    [[nodiscard]] bool all_see(Index first, Index count) const {
        return first >= all_.begin && first + count <= all_.end;
    }
    /// The keys of one query; none for a lane without a query.
    [[nodiscard]] KeyRange of(Index i) const { return i < queries_ ? ranges_[i] : KeyRange{}; }

    /// Cuts a tile where a register's queries begin or cease to see keys, so that the products
    /// leave out the corners behind a causal or window edge.
    void find_steps(Index first, Index count, int lanes, int width, TileSteps& steps) const {
        if (all_see(first, count)) return steps.assign({{0, count}, 0, width});
        std::array<KeyRange, max_tile_width> seen{};
        StackVector<Index, 2 * max_tile_width> cuts;
        for (int r = 0; r < width; ++r) {
            seen[static_cast<std::size_t>(r)] = seen_by_register(r, lanes, first, count);
            cuts.insert_sorted(seen[static_cast<std::size_t>(r)].begin);
            cuts.insert_sorted(seen[static_cast<std::size_t>(r)].end);
        }
        steps.clear();
        for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
            TileStep step{{cuts[c], cuts[c + 1]}, width, 0};
            if (step.keys.is_empty()) continue;
            for (int r = 0; r < width; ++r) {
                const KeyRange& keys = seen[static_cast<std::size_t>(r)];
                if (keys.begin > step.keys.begin || keys.end < step.keys.end) continue;
                step.first_register = std::min(step.first_register, r);
                step.end_register = r + 1;
            }
            if (step.first_register < step.end_register) steps.push_back(step);
        }
    }

  private:
    /// The keys of a tile, counted from its first, that some query of a register sees.
    [[nodiscard]] KeyRange seen_by_register(int r, int lanes, Index first, Index count) const {
        KeyRange seen;
        const Index end = std::min<Index>((r + 1) * lanes, queries_);
        for (Index i = r * lanes; i < end; ++i) {
            const KeyRange keys = ranges_[i].intersect({first, first + count});
            seen = seen.hull({keys.begin - first, keys.end - first});
        }
        return seen;
    }

    KeyRange* ranges_ = nullptr;
    Index queries_ = 0;
    KeyRange some_{};
    KeyRange all_{};
};

}  // namespace heed::inline v0::detail
