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
/// begin at multiples of it, counted from the first key of the sequence, whatever a mask shows: the
/// steps of the online softmax, and with them the bits of the result, then depend on the visible
/// keys alone, not on how a sequence was cut into calls.
inline constexpr Index key_tile = 128;

/// Calls visit(KeyRange) for the part of each tile that lies in some keys, ascending. `origin` is
/// where a tile begins, at or before the first of these keys.
template <class Visit>
void for_each_key_tile(const KeyRange& some, Index origin, const Visit& visit) {
    for (Index first = some.begin, next; first < some.end; first = next) {
        next = std::min(origin + ((first - origin) / key_tile + 1) * key_tile, some.end);
        visit(KeyRange{first, next});
    }
}

/// Queries in tiles that lie within one sequence: a document where there are documents, else all
/// queries. Sequences packed one behind the other are then computed with the bits that each of them
/// has alone.
class QueryTiling {
  public:
    QueryTiling(Index q_len, const DocumentBounds& documents, int lanes)
        : q_len_(q_len), documents_(documents), lanes_(lanes) {
        for (Index s = 0; s < sequences(); ++s) {
            most_tiles_ = std::max(most_tiles_, tiles_of(s).count());
            all_tiles_ += tiles_of(s).count();
        }
    }

    [[nodiscard]] Index sequences() const {
        return documents_.exist() ? std::ssize(documents_.queries) - 1 : 1;
    }
    /// Of the longest sequence, and of all.
    [[nodiscard]] Index most_tiles() const { return most_tiles_; }
    [[nodiscard]] Index all_tiles() const { return all_tiles_; }
    /// Its tiles, counted from its first query.
    [[nodiscard]] LaneTiling tiles_of(Index sequence) const {
        return {queries(sequence).end - queries(sequence).begin, lanes_};
    }
    [[nodiscard]] KeyRange queries(Index sequence) const {
        if (!documents_.exist()) return {0, q_len_};
        const auto s = static_cast<std::size_t>(sequence);
        return {documents_.queries[s], documents_.queries[s + 1]};
    }
    /// Where a tile of keys begins.
    [[nodiscard]] Index first_key(Index sequence) const {
        return documents_.exist() ? documents_.keys[static_cast<std::size_t>(sequence)] : 0;
    }
    /// Of the longest sequence, where there are so many in all.
    [[nodiscard]] Index most_keys(Index kv_len) const {
        if (!documents_.exist()) return kv_len;
        Index most = 0;
        for (std::size_t s = 1; s < documents_.keys.size(); ++s)
            most = std::max(most, documents_.keys[s] - documents_.keys[s - 1]);
        return most;
    }

  private:
    Index q_len_;
    DocumentBounds documents_;
    int lanes_;
    Index most_tiles_ = 0, all_tiles_ = 0;
};

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
