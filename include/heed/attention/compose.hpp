#pragma once
// How do masks and score modifications become one rule?
// Composition of types with `&`; the stages have one fixed order, whatever the order of writing.

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "heed/attention/dual.hpp"
#include "heed/attention/mask.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

/// A user's own score modification: any type with `score operator()(score, ScoreIndex) const`.
/// It runs after soft-cap, in line with the additive biases; minus infinity hides the key.
template <class F>
concept ScoreFunction = requires(const F& f, ScoreIndex at) {
    { f(1.0f, at) } -> std::convertible_to<float>;
};

/// A mask or score modification that is checked and resolved by bind().
template <class P>
concept BindableScoreRule = requires(const P& part, const AttentionShape& shape) {
    part.bind(shape, Alignment());
};

/// Anything that may be composed with `&` and passed as the mask of an attention.
template <class P>
concept ScorePart = BindableScoreRule<P> || ScoreFunction<P>;

/// A mask that exists for some elements of a batch alone, too: layers may take a large batch in
/// parts then, whose rows between the stages stay near.
template <class P>
concept DividesByBatch = requires(const P& part, Index n) {
    { part.part_of_batch(n, n) } -> std::same_as<P>;
};

namespace detail {

/// A user's function as a rule: it needs no sizes.
template <class F>
struct FunctionRule {
    static_assert(!std::same_as<std::invoke_result_t<const F&, float, ScoreIndex>, bool>,
                  "a score function returns a score, not whether a key is visible: to hide the "
                  "key, return minus infinity");
    F function;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        return static_cast<C>(function(score, at));
    }
    /// By the user's member `derivative(score, at)`, or by running the function on a dual number.
    template <class C>
    [[nodiscard]] C derivative(C score, const ScoreIndex& at) const {
        constexpr bool has_member = requires {
            { function.derivative(score, at) } -> std::convertible_to<C>;
        };
        constexpr bool takes_dual = requires {
            { function(Dual<C>(), at) } -> std::convertible_to<Dual<C>>;
        };
        static_assert(has_member || takes_dual,
                      "the gradient through a score function needs its derivative: give it a "
                      "member derivative(score, at), or let it take and return any number type "
                      "(auto), so that it can be run on heed::Dual");
        if constexpr (has_member)
            return static_cast<C>(function.derivative(score, at));
        else if constexpr (takes_dual)
            return Dual<C>(function(Dual<C>(score, C(1)), at)).slope;
        else
            return C(0);
    }
};

/// What a bound rule may have; each has at least one of these members, the others do not concern
/// it. `changes_scores` may be a member, where the answer is known only at run time.
template <class Rule>
concept CapsScores = requires(const Rule& rule, float score) {
    rule.cap(score);
};
template <class Rule>
concept ModifiesScores = requires(const Rule& rule, float score, ScoreIndex at) {
    rule.modify(score, at);
};
template <class Rule>
concept HasDerivative = requires(const Rule& rule, float score, ScoreIndex at) {
    rule.derivative(score, at);
};
template <class Rule>
concept HasRange = requires(const Rule& rule, ScoreIndex query) {
    rule.range(query);
};
template <class Rule>
concept HasFlags = requires(const Rule& rule, ScoreIndex at) {
    rule.visible(at);
};
template <class Rule>
concept HasSink = requires(const Rule& rule, ScoreIndex row) {
    rule.template sink<float>(row);
};

/// A rule of which a backward pass can write the gradient: a view [batch or 1, heads or 1, rows,
/// columns], empty where it is not wanted. Beside it, a rule that modifies scores has
/// add_gradient(tile, sums), which adds the gradients of a tile of its results, 0 in lanes without
/// a query, to the sums [rows, columns] of a head.
template <class Rule>
concept HasGradient = requires(const Rule& rule) {
    rule.gradient;
};

/// Derivatives in the layout of a tile of scores: in tile 0 the product of all, in the tile of a
/// later stage that of the rules from this stage on.
template <class C>
struct SlopeTiles {
    C* first;
    Index size;
    int count;

    [[nodiscard]] C* operator[](int stage) const { return first + stage * size; }

    void multiply(Index place, C derivative, int stage) const {
        for (int tile = 0; tile <= std::min(stage, count - 1); ++tile)
            (*this)[tile][place] *= derivative;
    }
};

/// log(exp(a) + exp(b)) of numbers below infinity; minus infinity is the neutral element.
template <class C>
[[nodiscard]] C log_add_exp(C a, C b) {
    const C larger = std::max(a, b), smaller = std::min(a, b);
    if (smaller == -std::numeric_limits<C>::infinity()) return larger;
    return larger + std::log1p(std::exp(smaller - larger));
}

/// Bound rules, applied stage by stage: cap, then modify, then range and visible, then sink. Itself
/// such a rule, with all members.
template <class... Rules>
struct BoundRules {
    std::tuple<Rules...> rules;

    template <class C>
    [[nodiscard]] C cap(C score) const {
        const auto step = [&](const auto& rule) {
            if constexpr (CapsScores<std::remove_cvref_t<decltype(rule)>>) score = rule.cap(score);
        };
        for_each(step);
        return score;
    }

    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        // A hidden key stays hidden: infinity + -infinity or 0 * -infinity in the next rule would
        // be NaN, and the meaning would depend on the order of writing.
        const auto step = [&](const auto& rule) {
            if constexpr (ModifiesScores<std::remove_cvref_t<decltype(rule)>>)
                if (score != ScoreTile<C>::hidden) score = rule.modify(score, at);
        };
        for_each(step);
        return score;
    }

    /// The keys that a query may see, as far as intervals tell.
    [[nodiscard]] KeyRange range([[maybe_unused]] const ScoreIndex& query, KeyRange keys) const {
        const auto narrow = [&](const auto& rule) {
            if constexpr (HasRange<std::remove_cvref_t<decltype(rule)>>)
                keys = keys.intersect(rule.range(query));
        };
        for_each(narrow);
        return keys;
    }

    /// The documents that queries and keys belong to; none where no rule tells.
    [[nodiscard]] DocumentBounds documents() const {
        DocumentBounds found;
        for_each([&](const auto& rule) {
            if constexpr (requires { rule.documents; })
                if (!found.exist()) found = rule.documents;
        });
        return found;
    }

    /// Whether a query may see a key, as far as the rules that are no intervals tell.
    [[nodiscard]] bool visible([[maybe_unused]] const ScoreIndex& at) const {
        return all_of([&](const auto& rule) {
            if constexpr (HasFlags<std::remove_cvref_t<decltype(rule)>>)
                return rule.visible(at);
            else
                return true;
        });
    }

    /// The logit that takes part in a row's sum of exponentials and has no value; minus infinity
    /// where there is none.
    template <class C>
    [[nodiscard]] C sink([[maybe_unused]] const ScoreIndex& row) const {
        C joined = -std::numeric_limits<C>::infinity();
        const auto join = [&](const auto& rule) {
            if constexpr (HasSink<std::remove_cvref_t<decltype(rule)>>)
                joined = log_add_exp(joined, rule.template sink<C>(row));
        };
        for_each(join);
        return joined;
    }

    // The same stages for a tile at once; a rule may have an own, faster member for it.

    template <class C>
    void cap_tile(const ScoreTile<C>& tile) const {
        for_each([&](const auto& rule) {
            if constexpr (requires { rule.cap_tile(tile); })
                rule.cap_tile(tile);
            else if constexpr (CapsScores<std::remove_cvref_t<decltype(rule)>>)
                tile.for_each_seen([&rule](C score, const ScoreIndex&) { return rule.cap(score); });
        });
    }

    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        for_each([&](const auto& rule) { modify_tile_by(rule, tile); });
    }

    // The two stages that change scores, as above, which also multiply `slopes`, laid out like the
    // tile, by the derivatives. Biases have derivative 1.

    template <class C>
    void cap_tile(const ScoreTile<C>& tile, const SlopeTiles<C>& slopes) const {
        for_each([&](const auto& rule) {
            if constexpr (CapsScores<std::remove_cvref_t<decltype(rule)>>) {
                rule.cap_tile(tile);
                rule.cap_slopes(tile, slopes[0]);
            }
        });
    }

    template <class C>
    void modify_tile(const ScoreTile<C>& tile, const SlopeTiles<C>& slopes) const {
        for_each_index([&](auto r) {
            const auto& rule = std::get<r>(rules);
            if constexpr (HasDerivative<std::remove_cvref_t<decltype(rule)>>)
                tile.for_each_seen([&](C score, const ScoreIndex& at) {
                    slopes.multiply((at.k - tile.first.k) * tile.row + at.q - tile.first.q,
                                    rule.derivative(score, at), stages[r]);
                    return rule.modify(score, at);
                });
            else
                modify_tile_by(rule, tile);
        });
    }

    /// The way back through both, from the gradients of the last scores to those of the first:
    /// visit(index, rule, gradients) where these are the gradients of what a rule returned whose
    /// own gradient is wanted. A gradient is exactly 0 where a weight is.
    template <class C, class Visit>
    void go_back(const ScoreTile<C>& gradients, const C* weights, const SlopeTiles<C>& slopes,
                 const Visit& visit) const {
        const auto multiply = [&](const C* by, C* tile) {
            gradients.kernels.multiply_slopes(weights, by, gradients.keys * gradients.row, tile);
        };
        for (int stage = 1; stage < slope_tiles(); ++stage)
            multiply(gradients.scores, slopes[stage]);
        for_each_index([&](auto r) {
            const auto& rule = std::get<r>(rules);
            if constexpr (requires(C * sums) { rule.add_gradient(gradients, sums); }) {
                ScoreTile<C> after_rule = gradients;
                if (const int stage = stage_behind(r); stage > 0) after_rule.scores = slopes[stage];
                if (is_wanted(rule.gradient)) visit(std::size_t{r}, rule, after_rule);
            }
        });
        if constexpr (has_slopes()) multiply(slopes[0], gradients.scores);
    }

    /// Tiles of slopes that go_back needs: one for all derivatives, and where score functions
    /// follow on a rule with a gradient, one for theirs alone.
    [[nodiscard]] static constexpr int slope_tiles() {
        int last = 0;
        for (int stage : stages) last = std::max(last, stage);
        return last + 1;
    }

    [[nodiscard]] static constexpr std::size_t count() { return sizeof...(Rules); }

    /// visit(index, rule) for the rules whose gradient is wanted.
    template <class Visit>
    void for_each_gradient(const Visit& visit) const {
        for_each_index([&](auto r) {
            const auto& rule = std::get<r>(rules);
            if constexpr (HasGradient<std::remove_cvref_t<decltype(rule)>>)
                if (is_wanted(rule.gradient)) visit(std::size_t{r}, rule);
        });
    }

    /// False when the derivative of every score is 1.
    [[nodiscard]] static constexpr bool has_slopes() {
        return ((CapsScores<Rules> || HasDerivative<Rules>) || ...);
    }

    /// Hides what the rules that are no intervals do not show.
    template <class C>
    void hide_tile(const ScoreTile<C>& tile) const {
        for_each([&](const auto& rule) {
            if constexpr (requires { rule.hide_tile(tile); })
                rule.hide_tile(tile);
            else if constexpr (HasFlags<std::remove_cvref_t<decltype(rule)>>)
                hide_each(rule, tile);
        });
    }

    /// How much of a tile those rules show; `some` when that would take long to find out.
    template <class C>
    [[nodiscard]] Coverage coverage([[maybe_unused]] const ScoreTile<C>& tile) const {
        Coverage seen = Coverage::all;
        for_each([&](const auto& rule) {
            if constexpr (requires { rule.coverage(tile); })
                seen = intersect(seen, rule.coverage(tile));
            else if constexpr (HasFlags<std::remove_cvref_t<decltype(rule)>>)
                seen = intersect(seen, Coverage::some);
        });
        return seen;
    }

    /// False when cap and modify return every score as it is.
    [[nodiscard]] bool changes_scores() const {
        return !all_of([](const auto& rule) {
            using Rule = std::remove_cvref_t<decltype(rule)>;
            if constexpr (requires { rule.changes_scores(); })
                return !rule.changes_scores();
            else
                return !CapsScores<Rule> && !ModifiesScores<Rule>;
        });
    }

    /// True when a tensor that some rule reads satisfies the predicate.
    template <class Predicate>
    [[nodiscard]] bool any_tensor(const Predicate& predicate) const {
        return !all_of([&](const auto& rule) {
            if constexpr (requires { rule.any_tensor(predicate); })
                return !rule.any_tensor(predicate);
            else if constexpr (requires { rule.tensor; })
                return !predicate(rule.tensor);
            else
                return true;
        });
    }

  private:
    /// The rules with a derivative that come behind one with a gradient are counted from 1; the
    /// tile of slopes of a stage holds the derivatives from that rule on.
    static constexpr std::array<int, sizeof...(Rules)> stages = [] {
        std::array<int, sizeof...(Rules)> result{};
        [[maybe_unused]] constexpr std::array<bool, sizeof...(Rules)> adds{
            (HasGradient<Rules> && ModifiesScores<Rules>)...},
            derives{HasDerivative<Rules>...};
        bool behind = false;
        int last = 0;
        for (std::size_t r = 0; r < sizeof...(Rules); ++r) {
            if (behind && derives[r]) result[r] = ++last;
            behind = behind || adds[r];
        }
        return result;
    }();

    /// That of the next rule with a derivative; 0 where none follows.
    static constexpr int stage_behind(std::size_t rule) {
        for (std::size_t r = rule + 1; r < sizeof...(Rules); ++r)
            if (stages[r] > 0) return stages[r];
        return 0;
    }

    template <class Rule, class C>
    static void modify_tile_by(const Rule& rule, const ScoreTile<C>& tile) {
        if constexpr (requires { rule.modify_tile(tile); })
            rule.modify_tile(tile);
        else if constexpr (ModifiesScores<Rule>)
            tile.for_each_seen(
                [&rule](C score, const ScoreIndex& at) { return rule.modify(score, at); });
    }

    /// step(index) with each index as a constant.
    template <class Step>
    void for_each_index(const Step& step) const {
        [&]<std::size_t... r>(std::index_sequence<r...>) {
            (step(std::integral_constant<std::size_t, r>()), ...);
        }
        (std::index_sequence_for<Rules...>());
    }

    template <class Step>
    void for_each(const Step& step) const {
        std::apply([&](const auto&... rule) { (step(rule), ...); }, rules);
    }

    template <class Predicate>
    [[nodiscard]] bool all_of(const Predicate& predicate) const {
        return std::apply([&](const auto&... rule) { return (predicate(rule) && ...); }, rules);
    }
};

template <class Part>
[[nodiscard]] auto bind_part(const Part& part, const AttentionShape& shape,
                             const Alignment& common) {
    if constexpr (BindableScoreRule<Part>)
        return part.bind(shape, common);
    else
        return FunctionRule<Part>{part};
}

}  // namespace detail

/// Masks and score modifications that hold together. Order of meaning: scale, soft-cap, biases and
/// score functions (as written, left to right; a key that one hides is not shown to the next),
/// masks, softmax (with sinks in its sum).
template <class... Parts>
struct ScoreRules {
    std::tuple<Parts...> parts;

    /// What parts leave open in their alignment: the first name, the first documents.
    [[nodiscard]] Alignment common_alignment() const {
        Alignment common;
        const auto look = [&](const auto& part) {
            if constexpr (requires { part.alignment; }) common = common.or_else(part.alignment);
        };
        std::apply([&](const auto&... part) { (look(part), ...); }, parts);
        return common;
    }

    [[nodiscard]] auto bind(const AttentionShape& shape, const Alignment& outer = {}) const {
        const Alignment common = common_alignment().or_else(outer);
        return std::apply(
            [&](const auto&... part) {
                return detail::BoundRules<decltype(detail::bind_part(part, shape, common))...>{
                    {detail::bind_part(part, shape, common)...}};
            },
            parts);
    }

    [[nodiscard]] ScoreRules part_of_batch(Index first, Index count) const
        requires(DividesByBatch<Parts>&&...) {
        return std::apply(
            [&](const auto&... part) {
                return ScoreRules{std::tuple<Parts...>(part.part_of_batch(first, count)...)};
            },
            parts);
    }
};

/// Every key is visible and no score is changed.
using NoMask = ScoreRules<>;

namespace detail {

template <class... Parts>
[[nodiscard]] std::tuple<Parts...> parts_of(const ScoreRules<Parts...>& rules) {
    return rules.parts;
}
template <class Part>
[[nodiscard]] std::tuple<Part> parts_of(const Part& part) {
    return {part};
}

template <class... Parts>
[[nodiscard]] ScoreRules<Parts...> from_parts(std::tuple<Parts...> parts) {
    return {std::move(parts)};
}

}  // namespace detail

/// Both rules at once; chains flatten. Masks intersect: a key is seen when every mask shows it.
template <ScorePart A, ScorePart B>
[[nodiscard]] auto operator&(const A& a, const B& b) {
    return detail::from_parts(std::tuple_cat(detail::parts_of(a), detail::parts_of(b)));
}

}  // namespace heed::inline v0
