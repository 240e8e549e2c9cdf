#pragma once
// What does a mask mean when a layer appends keys of its own?
// Wraps each rule of a mask: the given keys obey it, the appended ones are visible to every query.

#include "heed/attention/compose.hpp"

namespace heed::inline v0 {
namespace detail {

/// A bound rule for the given keys. What does not concern keys (soft-cap, sinks, tensors) is the
/// rule's own; members that the rule does not have are not here either.
template <class Rule>
struct ExtraKeysRule : Rule {
    static constexpr bool hides = HasFlags<Rule> || HasRange<Rule>;

    Index given;  ///< keys from here on are the layer's own
    Index extra;  ///< how many those are

    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const requires ModifiesScores<Rule> {
        return at.k >= given ? score : Rule::modify(score, at);
    }
    template <class C>
    [[nodiscard]] C derivative(C score, const ScoreIndex& at) const requires HasDerivative<Rule> {
        return at.k >= given ? C(1) : Rule::derivative(score, at);
    }
    /// With keys behind the given ones, the visible keys are no interval any more.
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const requires HasRange<Rule> {
        return extra > 0 ? KeyRange{0, given + extra} : Rule::range(query);
    }
    [[nodiscard]] bool visible(const ScoreIndex& at) const requires hides {
        if (at.k >= given) return true;
        bool seen = true;
        if constexpr (HasFlags<Rule>) seen = Rule::visible(at);
        if constexpr (HasRange<Rule>) seen = seen && (extra == 0 || Rule::range(at).contains(at.k));
        return seen;
    }

    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const requires ModifiesScores<Rule> {
        if (tile.first.k >= given) return;
        const ScoreTile<C> part = tile.first_keys(given - tile.first.k);
        if constexpr (requires { Rule::modify_tile(part); })
            Rule::modify_tile(part);
        else
            part.for_each_seen(
                [&](C score, const ScoreIndex& at) { return Rule::modify(score, at); });
    }
    template <class C>
    void add_gradient(const ScoreTile<C>& tile, C* sums) const requires requires(const Rule& rule) {
        rule.add_gradient(tile, sums);
    }
    {
        if (tile.first.k < given) Rule::add_gradient(tile.first_keys(given - tile.first.k), sums);
    }
    template <class C>
    void hide_tile(const ScoreTile<C>& tile) const requires hides {
        if (extra > 0)
            hide_each(*this, tile);
        else if constexpr (requires { Rule::hide_tile(tile); })
            Rule::hide_tile(tile);
        else if constexpr (HasFlags<Rule>)
            hide_each(static_cast<const Rule&>(*this), tile);
    }
    template <class C>
    [[nodiscard]] Coverage coverage(const ScoreTile<C>& tile) const {
        if (extra > 0) return hides ? Coverage::some : Coverage::all;
        if constexpr (requires { Rule::coverage(tile); })
            return Rule::coverage(tile);
        else
            return HasFlags<Rule> ? Coverage::some : Coverage::all;
    }
};

/// A part of a mask for the first kv_len - extra keys; biases do not reach the others either.
template <class Part>
struct WithExtraKeys {
    Part part;
    Index extra;
    Alignment common;  ///< of the whole mask

    [[nodiscard]] auto bind(AttentionShape shape, const Alignment& outer) const {
        shape.kv_len -= extra;
        auto rule = bind_part(part, shape, common.or_else(outer));
        return ExtraKeysRule<decltype(rule)>{std::move(rule), shape.kv_len, extra};
    }
};

/// The mask of the first kv_len - extra keys.
template <ScorePart Mask>
[[nodiscard]] auto with_extra_keys(const Mask& mask, Index extra) {
    const auto rules = from_parts(parts_of(mask));
    const Alignment common = rules.common_alignment();
    return std::apply(
        [&](const auto&... part) {
            return ScoreRules<WithExtraKeys<std::remove_cvref_t<decltype(part)>>...>{
                {WithExtraKeys<std::remove_cvref_t<decltype(part)>>{part, extra, common}...}};
        },
        rules.parts);
}

}  // namespace detail
}  // namespace heed::inline v0
