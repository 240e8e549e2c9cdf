#pragma once
// How do the gradients of scores become those of biases, slopes, tables and sinks?
// Sums them up in the loop, for each part of the work by itself, and adds these sums in one order
// at the end. Memory grows with the gradients that are wanted, never with all scores.
//
// A gradient with a row for each query and a column for each key has sums of its own size; heads
// that add to the same one are taken one after the other. Every other gradient has sums for each
// head and each chunk of its keys.

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>

#include "heed/attention/backward_scratch.hpp"
#include "heed/attention/score_tile.hpp"
#include "heed/base/executor.hpp"
#include "heed/tensor/broadcast.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0::detail {

/// Which kv heads of all batch elements must be taken one after the other? Those that add to the
/// same matrix: the slots depend on sizes and masks alone, or the bits would depend on the workers.
class HeadSlots {
  public:
    /// `batch_apart`, `heads_apart`: no two batch elements, no two heads add to the same matrix.
    HeadSlots(const AttentionShape& s, bool batch_apart, bool heads_apart)
        : kv_heads_(s.kv_heads),
          batch_apart_(batch_apart),
          heads_apart_(heads_apart),
          classes_((batch_apart ? s.batch : 1) * (heads_apart ? s.kv_heads : 1)),
          members_(classes_ == 0 ? 0 : s.batch * s.kv_heads / classes_),
          parts_(classes_ == 0
                     ? 1
                     : std::clamp<Index>(enough / classes_, 1, std::max<Index>(1, members_))) {}

    [[nodiscard]] Index count() const { return classes_ * parts_; }
    /// A matrix that heads share has so many sums, each of some of the heads.
    [[nodiscard]] Index parts() const { return parts_; }
    [[nodiscard]] Index part_of(Index slot) const { return slot % parts_; }
    [[nodiscard]] bool are_shared() const { return !(batch_apart_ && heads_apart_); }

    /// visit(kv head of all batch elements), ascending.
    template <class Visit>
    void for_each_head(Index slot, const Visit& visit) const {
        const Index part = part_of(slot);
        for (Index n = part * members_ / parts_; n < (part + 1) * members_ / parts_; ++n)
            visit(head(slot / parts_, n));
    }

  private:
    /// Slots that keep a few workers busy.
    static constexpr Index enough = 8;

    [[nodiscard]] Index head(Index of_class, Index member) const {
        if (batch_apart_ && heads_apart_) return of_class;
        if (batch_apart_) return of_class * kv_heads_ + member;
        if (heads_apart_) return member * kv_heads_ + of_class;
        return member;
    }

    Index kv_heads_;
    bool batch_apart_;
    bool heads_apart_;
    Index classes_;
    Index members_;
    Index parts_;
};

/// The gradients that the rules of one attention want, and their sums.
template <class Rules, class C>
class RuleGradients {
  public:
    /// What adds to the sums: a chunk of the keys of a kv head, in a part of its slot.
    struct Share {
        Index chunk;
        Index part;
    };

    RuleGradients(const Rules& rules, const AttentionShape& s, LineAllocator<C>& memory)
        : rules_(rules),
          shape_(s),
          chunks_(std::max<Index>(1, KeyChunks(s.kv_len).count())),
          slots_(slots_of(rules, s)) {
        rules.for_each_gradient([&](std::size_t index, const auto& rule) {
            const auto& to = rule.gradient;
            if (!is_matrix(to))
                sums_[index] = memory.take({s.batch, s.heads, chunks_, row_elements(to)});
            else if (!is_summed_in_place(to))
                sums_[index] = memory.take(
                    {slots_.parts(), to.extent(0), to.extent(1), to.extent(2), to.extent(3)});
        });
    }

    [[nodiscard]] const HeadSlots& slots() const { return slots_; }

    /// True when a rule that modifies scores wants its gradient.
    [[nodiscard]] bool are_wanted() const {
        bool wanted = false;
        rules_.for_each_gradient([&](std::size_t, const auto& rule) {
            wanted = wanted || requires(const ScoreTile<C>& tile, C* sums) {
                rule.add_gradient(tile, sums);
            };
        });
        return wanted;
    }

    /// Tiles of slopes that are needed; without gradients, one.
    [[nodiscard]] int slope_tiles() const { return are_wanted() ? Rules::slope_tiles() : 1; }

    /// Before all else: zeros in the sums that grow with queries times keys, row by row.
    [[nodiscard]] Index rows_to_clear() const {
        Index rows = 0;
        rules_.for_each_gradient([&](std::size_t, const auto& rule) {
            if (is_matrix(rule.gradient)) rows += slots_.parts() * rows_of(rule.gradient);
        });
        return rows;
    }
    void clear_row(Index row, int /*worker*/) const {
        rules_.for_each_gradient([&](std::size_t index, const auto& rule) {
            if (!is_matrix(rule.gradient)) return;
            const Index rows = rows_of(rule.gradient), all = slots_.parts() * rows;
            if (row >= 0 && row < all)
                fill(row_of(matrix(index, rule.gradient, row / rows), row % rows), C(0));
            row -= all;
        });
    }

    /// Before a chunk of the keys of a kv head: zeros in the other sums.
    void clear_sums(Index kv_head, Index chunk) const {
        const Index heads = shape_.heads / shape_.kv_heads;
        rules_.for_each_gradient([&](std::size_t index, const auto& rule) {
            if (is_matrix(rule.gradient)) return;
            const Index n = row_elements(rule.gradient);
            for (Index h = 0; h < heads; ++h)
                std::fill_n(sums(index, n, kv_head * heads + h, chunk), n, C(0));
        });
    }

    /// Adds a tile of gradients of what the rule returned, in lanes without a query 0.
    template <class Rule>
    void add(std::size_t index, const Rule& rule, const ScoreTile<C>& tile,
             const Share& share) const {
        const Index head = tile.first.b * shape_.heads + tile.first.h;
        if (is_matrix(rule.gradient))
            add_matrix(tile, matrix(index, rule.gradient, share.part));
        else
            rule.add_gradient(tile, sums(index, row_elements(rule.gradient), head, share.chunk));
    }

    /// Adds what a query gives to the gradients of sinks, by its log-sum-exp and delta.
    void add_sinks(const ScoreIndex& at, C lse, C delta) const {
        rules_.for_each_gradient([&](std::size_t index, const auto& rule) {
            if constexpr (requires { rule.template sink<C>(at); }) {
                // A query that sees no key has no gradient, whatever its row of d_out holds.
                if (std::isnan(delta) && lse == rules_.template sink<C>(at)) return;
                const C logit = rule.template sink<C>(at);
                if (logit == -std::numeric_limits<C>::infinity()) return;
                *sums(index, 1, at.b * shape_.heads + at.h, 0) -= std::exp(logit - lse) * delta;
            }
        });
    }

    /// After all else: adds the sums and writes the gradients, row by row.
    [[nodiscard]] Index rows_to_store() const {
        Index rows = 0;
        rules_.for_each_gradient([&](std::size_t, const auto& rule) {
            if (is_stored(rule.gradient)) rows += rows_of(rule.gradient);
        });
        return rows;
    }
    void store_row(Index row, int /*worker*/) const {
        rules_.for_each_gradient([&](std::size_t index, const auto& rule) {
            if (!is_stored(rule.gradient)) return;
            const Index rows = rows_of(rule.gradient);
            if (row >= 0 && row < rows) store_row_of(index, rule.gradient, row);
            row -= rows;
        });
    }

  private:
    template <class T>
    [[nodiscard]] static bool is_matrix(TensorView<T, 4> gradient) {
        return gradient.extent(2) > 1 && gradient.extent(3) > 1;
    }
    template <class T>
    [[nodiscard]] static Index row_elements(TensorView<T, 4> gradient) {
        return gradient.extent(2) * gradient.extent(3);
    }

    [[nodiscard]] static HeadSlots slots_of(const Rules& rules, const AttentionShape& s) {
        bool batch_apart = true, heads_apart = true;
        rules.for_each_gradient([&](std::size_t, const auto& rule) {
            if (!is_matrix(rule.gradient)) return;
            batch_apart = batch_apart && rule.gradient.extent(0) == s.batch;
            heads_apart = heads_apart && rule.gradient.extent(1) == s.heads;
        });
        return {s, batch_apart, heads_apart};
    }

    template <class T>
    [[nodiscard]] bool is_summed_in_place(TensorView<T, 4> gradient) const {
        return std::same_as<T, C> && slots_.parts() == 1 && gradient.has_contiguous_rows();
    }

    /// The sums of a part of a slot, in the shape of the gradient.
    template <class T>
    [[nodiscard]] TensorView<C, 4> matrix(std::size_t index, TensorView<T, 4> gradient,
                                          Index part) const {
        if constexpr (std::same_as<T, C>)
            if (is_summed_in_place(gradient)) return gradient;
        return {sums_[index] + part * gradient.element_count(), gradient.shape()};
    }

    /// The n sums of a head (of all batch elements) and chunk.
    [[nodiscard]] C* sums(std::size_t index, Index n, Index head, Index chunk) const {
        return sums_[index] + (head * chunks_ + chunk) * n;
    }

    void add_matrix(const ScoreTile<C>& whole, TensorView<C, 4> sums) const {
        const Index columns = sums.extent(3);
        if (whole.first.k >= columns) return;
        const ScoreTile<C> tile = whole.first_keys(columns - whole.first.k);
        const TensorView<C, 2> to = tile.part_of(
            broadcast_to(sums, Shape<4>(shape_.batch, shape_.heads, sums.extent(2), columns)));
        tile.kernels.add_to_rows(tile.scores, tile.row, tile.keys, tile.queries, to.data(),
                                 to.stride(0));
    }

    /// The first part's row of a matrix, with the others' added.
    template <class T>
    [[nodiscard]] C* sum_of_parts(std::size_t index, TensorView<T, 4> to, Index b, Index h,
                                  Index i) const {
        const auto row = [&](Index part) { return &matrix(index, to, part)(b, h, i, 0); };
        for (Index part = 1; part < slots_.parts(); ++part)
            add_row(row(part), to.extent(3), row(0));
        return row(0);
    }

    /// The sums of the first head that adds to a row, with all others' added; null when there is
    /// none.
    template <class T>
    [[nodiscard]] C* sum_of_heads(std::size_t index, TensorView<T, 4> to, Index b, Index h,
                                  Index i) const {
        const Index n = row_elements(to), columns = to.extent(3);
        const auto heads_of = [](Index extent, Index place, Index whole) {
            return extent == whole ? KeyRange{place, place + 1} : KeyRange{0, whole};
        };
        const KeyRange batch = heads_of(to.extent(0), b, shape_.batch);
        const KeyRange heads = heads_of(to.extent(1), h, shape_.heads);
        C* first = nullptr;
        for (Index of_batch = batch.begin; of_batch < batch.end; ++of_batch)
            for (Index head = heads.begin; head < heads.end; ++head)
                for (Index chunk = 0; chunk < chunks_; ++chunk) {
                    C* const row =
                        sums(index, n, of_batch * shape_.heads + head, chunk) + i * columns;
                    if (first != nullptr)
                        add_row(row, columns, first);
                    else
                        first = row;
                }
        return first;
    }

    static void add_row(const C* from, Index count, C* to) {
        for (Index n = 0; n < count; ++n) to[n] += from[n];
    }

    template <class T>
    [[nodiscard]] static Index rows_of(TensorView<T, 4> gradient) {
        return gradient.extent(0) * gradient.extent(1) * gradient.extent(2);
    }
    template <class T>
    [[nodiscard]] static TensorView<T, 1> row_of(TensorView<T, 4> gradient, Index row) {
        const Index heads = gradient.extent(1), rows = gradient.extent(2);
        return gradient.select(0, row / rows / heads)
            .select(0, row / rows % heads)
            .select(0, row % rows);
    }

    /// A gradient that is summed elsewhere.
    template <class T>
    [[nodiscard]] bool is_stored(TensorView<T, 4> gradient) const {
        return !is_matrix(gradient) || !is_summed_in_place(gradient);
    }
    template <class T>
    void store_row_of(std::size_t index, TensorView<T, 4> to, Index row) const {
        const Index heads = to.extent(1), rows = to.extent(2);
        const Index b = row / rows / heads, h = row / rows % heads, i = row % rows;
        C* const sum =
            is_matrix(to) ? sum_of_parts(index, to, b, h, i) : sum_of_heads(index, to, b, h, i);
        const TensorView<T, 1> target = row_of(to, row);
        if (sum == nullptr) return fill(target, {});
        copy(TensorView<const C, 1>(sum, target.shape()), target);
    }

    const Rules& rules_;
    AttentionShape shape_;
    Index chunks_;
    HeadSlots slots_;
    std::array<C*, Rules::count()> sums_{};
};

}  // namespace heed::inline v0::detail
