#pragma once
// What memory does a worker need for the tiles that it works on?
// Lays the scratch of the fused attention out in memory that somebody else owns.

#include <cstdint>
#include <utility>

#include "heed/attention/tiling.hpp"
#include "heed/ops/tile_rows.hpp"

namespace heed::inline v0::detail {

/// Queries that pass over the keys together, so that a tile of keys that is far away or must be
/// widened is fetched once for all of them.
template <class C>
inline constexpr Index group_queries = 768 / static_cast<Index>(sizeof(C));

/// The part of the scratch that belongs to one tile of queries.
template <class C>
struct QueryTileScratch {
    C* queries;  ///< [head_dim][lane]
    C* out;      ///< [value_dim][lane]
    C* max;      ///< per query, as all that follow
    C* sum;
    KeyRange* range;
};

/// Scratch of one worker: the tiles of a group of queries, and what they use one after another.
template <class C>
struct FusedScratch {
    C* scores;    ///< [key][lane], then the weights
    C* hidden;    ///< scratch of the rules, then a copy of the scores of a tile that holds poison
    C* keys;      ///< [key][head_dim], when keys cannot be read in place
    C* values;    ///< [key][value_dim], when values cannot be read in place or hold poison
    C* rows;      ///< [lane][value_dim], when out cannot be written in place
    C* tile_max;  ///< per query of a tile, as all that follow
    C* factor;
    C* first_key;
    C* end_key;

    static constexpr Index row = most_tile_lanes<C>;

    /// A multiple of a cache line, so that workers do not share one.
    static CheckedSize<> element_count(const AttentionShape& s) {
        const auto size = [](Index n) {
            return CheckedSize<>("attention_workspace_bytes", static_cast<std::uint64_t>(n));
        };
        const auto unsigned_of = [](Index n) { return static_cast<std::uint64_t>(n); };
        return size(s.head_dim) * unsigned_of(group_queries<C> + key_tile) +
               (size(s.value_dim) * unsigned_of(group_queries<C> + key_tile + row)).bytes() +
               unsigned_of(2 * key_tile * row + 4 * row + group_queries<C> * (2 + range_elements));
    }

    FusedScratch(const AttentionShape& s, C* memory) : head_dim_(s.head_dim) {
        const auto take = [&memory](Index count) { return std::exchange(memory, memory + count); };
        scores = take(row * key_tile);
        hidden = take(row * key_tile);
        for (C** state : {&tile_max, &factor, &first_key, &end_key}) *state = take(row);
        keys = take(s.head_dim * key_tile);
        values = take(s.value_dim * key_tile);
        rows = take(s.value_dim * row);
        group_ = {take(group_queries<C> * s.head_dim), take(group_queries<C> * s.value_dim),
                  take(group_queries<C>), take(group_queries<C>),
                  reinterpret_cast<KeyRange*>(take(group_queries<C> * range_elements))};
        value_dim_ = s.value_dim;
    }

    /// The scratch of a tile before which the group has so many lanes.
    [[nodiscard]] QueryTileScratch<C> tile(Index lane) const {
        return {group_.queries + lane * head_dim_, group_.out + lane * value_dim_,
                group_.max + lane, group_.sum + lane, group_.range + lane};
    }

  private:
    static constexpr Index range_elements = static_cast<Index>(sizeof(KeyRange) / sizeof(C));

    QueryTileScratch<C> group_;
    Index head_dim_;
    Index value_dim_;
};

}  // namespace heed::inline v0::detail
