#pragma once
// What does a mask mean when a layer appends keys of its own?
// Wraps a mask: the given keys obey it, the appended ones are visible to every query.

#include "heed/attention/compose.hpp"

namespace heed::inline v0 {
namespace detail {

template <class Rules>
struct ExtraKeysRule {
    Rules inner;
    Index given;  ///< keys from here on are the layer's own
    Index extra;  ///< how many those are

    template <class C>
    [[nodiscard]] C cap(C score) const {
        return inner.cap(score);
    }
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        return at.k >= given ? score : inner.modify(score, at);
    }
    /// With keys behind the given ones, the visible keys are no interval any more.
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const {
        return extra > 0 ? KeyRange{0, given + extra} : inner.range(query, {0, given});
    }
    [[nodiscard]] bool visible(const ScoreIndex& at) const {
        if (at.k >= given) return true;
        return inner.visible(at) && (extra == 0 || inner.range(at, {0, given}).contains(at.k));
    }
    template <class C>
    [[nodiscard]] C sink(const ScoreIndex& row) const {
        return inner.template sink<C>(row);
    }

    template <class C>
    void cap_tile(const ScoreTile<C>& tile) const {
        inner.cap_tile(tile);
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        if (tile.first.k < given) inner.modify_tile(tile.first_keys(given - tile.first.k));
    }
    /// The same two stages, which also multiply `slopes` by the derivatives.
    template <class C>
    void cap_tile(const ScoreTile<C>& tile, C* slopes) const {
        inner.cap_tile(tile, slopes);
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile, C* slopes) const {
        if (tile.first.k < given) inner.modify_tile(tile.first_keys(given - tile.first.k), slopes);
    }
    [[nodiscard]] static constexpr bool has_slopes() { return Rules::has_slopes(); }

    template <class C>
    void hide_tile(const ScoreTile<C>& tile) const {
        if (extra == 0)
            inner.hide_tile(tile);
        else
            hide_each(*this, tile);
    }
    template <class C>
    [[nodiscard]] Coverage coverage(const ScoreTile<C>& tile) const {
        return extra == 0 ? inner.coverage(tile) : Coverage::some;
    }

    [[nodiscard]] bool changes_scores() const { return inner.changes_scores(); }

    template <class Predicate>
    [[nodiscard]] bool any_tensor(const Predicate& predicate) const {
        return inner.any_tensor(predicate);
    }
};

/// The mask of the first kv_len - extra keys; biases do not reach the others either.
template <ScorePart Mask>
struct WithExtraKeys {
    Mask mask;
    Index extra;

    [[nodiscard]] auto bind(AttentionShape shape, const Alignment& common) const {
        shape.kv_len -= extra;
        auto inner = from_parts(parts_of(mask)).bind(shape, common);
        return ExtraKeysRule<decltype(inner)>{std::move(inner), shape.kv_len, extra};
    }
};

}  // namespace detail
}  // namespace heed::inline v0
