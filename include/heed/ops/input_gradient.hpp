#pragma once
// What becomes of the gradient of a product on its way to the input, dy W?
// On the tile kernels of attention, in pieces that different workers may take, with scratch on the
// stack. Each element is one sum in ascending order: its bits depend neither on the other rows, nor
// on the workers, nor on whether the weights are packed.
//
// Packed weights are read as they lie, for the product and for its gradient: here as scalars, while
// rows of dy lie on lanes. Weights in place are read a few features at a time, which lie on lanes;
// for a few rows of dy, whole rows of them, as memory has them.

#include <algorithm>
#include <span>

#include "heed/ops/product.hpp"

namespace heed::inline v0::detail {

/// W [out, in] on the way back: as a matrix and, where products read packed weights, packed in
/// parts, one after another.
template <class C>
struct BackwardWeights {
    TensorView<const C, 2> matrix;
    std::span<const PackedWeights<C>> packed = {};
};

/// dx = residual + dy W. The residual may be absent, or dx.
template <class C>
class InputGradient {
  public:
    /// Rows are contiguous. `workers` is how many may take pieces at the same time.
    InputGradient(RowList<const C> dy, const BackwardWeights<C>& weights, RowList<C> dx,
                  RowList<const C> residual, int workers)
        : kernels_(tile_kernels<C>()),
          dy_(dy),
          weights_(weights),
          dx_(dx),
          residual_(residual),
          common_(dy, dx, residual),
          way_(chosen_way()),
          row_tiles_(common_.rows, kernels_.lanes),
          inputs_(inputs_at_once(workers)),
          blocks_(common_, most_rows),
          feature_tiles_(dx.columns(), kernels_.lanes),
          group_tiles_(tiles_at_once(workers)) {}

    [[nodiscard]] Index count() const {
        switch (way_) {
            case Way::row_by_row:
                return common_.matrices * groups();
            case Way::packed:
                return pieces(dx_.columns(), inputs_) * all_row_tiles();
            case Way::tile_by_tile:
                return blocks_.count() * feature_tiles_.count();
        }
        return 0;
    }

    void operator()(Index piece, int /*worker*/) const {
        switch (way_) {
            case Way::row_by_row:
                return multiply_row_by_row(piece);
            case Way::packed:
                return multiply_packed(piece);
            case Way::tile_by_tile:
                return multiply_tile_by_tile(piece);
        }
    }

  private:
    /// How W is read.
    enum class Way { row_by_row, packed, tile_by_tile };

    /// Features of dx for a tile of rows: with more of them dy is put on lanes less often, with
    /// fewer there are enough pieces for several workers.
    static constexpr Index most_inputs = 256, fewest_inputs = 64;
    static constexpr Index terms = product_terms, most_rows = product_outputs<C>;
    static constexpr Index most = most_tile_lanes<C>;
    /// Panels of packed weights whose sums stay in registers, while dy on lanes stays near.
    static constexpr Index most_panels = 4;
    /// For few rows: tiles of features side by side, and rows of W at once, each of which the
    /// processor reads ahead.
    static constexpr Index most_group_tiles = 16, few_terms = 16;

    using Part = ResultPart;

    /// Packed weights would leave most lanes empty for a few rows; for many rows weights that stay
    /// in the second-level cache are as near in place, where sums are longer.
    [[nodiscard]] Way chosen_way() const {
        if (common_.rows <= few_rows) return Way::row_by_row;
        const bool is_better_packed =
            common_.rows < packed_rows || !is_near(weights_.matrix.element_count(), sizeof(C));
        return !weights_.packed.empty() && is_better_packed ? Way::packed : Way::tile_by_tile;
    }
    [[nodiscard]] Index all_row_tiles() const { return common_.matrices * row_tiles_.count(); }

    /// In multiples of 8, which a product takes at once.
    [[nodiscard]] Index inputs_at_once(int workers) const {
        const Index all = dx_.columns();
        if (all == 0) return most_inputs;
        const Index at_most = shared_out(most_inputs, fewest_inputs, workers,
                                         [&](Index n) { return pieces(all, n) * all_row_tiles(); });
        return pieces(pieces(all, pieces(all, at_most)), 8) * 8;  // balanced
    }

    [[nodiscard]] Index groups() const { return pieces(feature_tiles_.count(), group_tiles_); }
    [[nodiscard]] Index tiles_at_once(int workers) const {
        return shared_out(most_group_tiles, 1, workers, [&](Index n) {
            return common_.matrices * pieces(feature_tiles_.count(), n);
        });
    }

    /// A few rows, and the features of some tiles.
    void multiply_row_by_row(Index piece) const {
        const Index first = piece % groups() * group_tiles_;
        const Index end = std::min(first + group_tiles_, feature_tiles_.count());
        const Index column = feature_tiles_.begin(first);
        const Part part{piece / groups() * common_.rows, common_.rows, column,
                        std::min(feature_tiles_.begin(end), dx_.columns()) - column};
        constexpr Index row = most_group_tiles * most;
        StackScratch<C, few_rows * row> sums;
        std::fill_n(sums.data, part.rows * row, C(0));
        const Index outputs = weights_.matrix.extent(0);
        for (Index n = 0; n < outputs; n += few_terms) {
            const Index count = std::min(few_terms, outputs - n);
            const C* const dy = dy_.first_of(part.row) + n;
            for (Index tile = first; tile < end; ++tile)
                add_rows(weights_.matrix.slice(0, n, count), tile, dy, part.rows,
                         sums.data + feature_tiles_.begin(tile) - column, row);
        }
        finish(part, sums.data, row);
    }

    /// sums[r][c] += sum_n dy[r][n] W[n][c] over some rows of W and the features of a tile.
    void add_rows(TensorView<const C, 2> weight, Index tile, const C* dy, Index rows, C* sums,
                  Index sum_row) const {
        const int width = feature_tiles_.width(tile);
        const Index begin = feature_tiles_.begin(tile), lanes = width * kernels_.lanes;
        const Index features = std::min(lanes, weight.extent(1) - begin);
        StackScratch<C, few_terms * most> edge;
        TileRows<C> from(weight.data() + begin, weight.stride(0));
        if (features < lanes) {
            load_panel(weight.slice(1, begin, features), lanes, edge.data);
            from = {edge.data, lanes};
        }
        LinesAhead ahead;
        kernels_.weighted_sums[width - 1](dy, dy_.row_stride(), rows, from.data, from.stride,
                                          weight.extent(0), sums, sum_row, ahead);
    }

    /// Some features of a tile of rows. Tiles take the same features one after another, whose
    /// weights are near then.
    void multiply_packed(Index piece) const {
        const Index group = piece % all_row_tiles(), tile = group % row_tiles_.count();
        const Index begin = row_tiles_.begin(tile), column = piece / all_row_tiles() * inputs_;
        const int width = row_tiles_.width(tile);
        const Index row = width * kernels_.lanes;
        const Part part{group / row_tiles_.count() * common_.rows + begin,
                        std::min<Index>(row, common_.rows - begin), column,
                        std::min(inputs_, dx_.columns() - column)};
        StackScratch<C, most_inputs * most> sums, rows;
        std::fill_n(sums.data, part.columns * row, C(0));
        Index output = 0;
        for (const PackedWeights<C>& weights : weights_.packed) {
            for (Index p = 0; p < weights.panels(); p += together(weights, p))
                add_panels(part, weights, p, dy_.first_of(part.row) + output, width, sums.data);
            output += weights.outputs();
        }
        kernels_.finish(sums.data, row, part.columns, part.rows, ones<C>().data(), rows.data,
                        part.columns);
        finish(part, rows.data, part.columns);
    }

    /// How many panels from p on go together; one alone for a few rows, which wait for its memory.
    [[nodiscard]] Index together(const PackedWeights<C>& weights, Index p) const {
        return weights.panels_alike(p, common_.rows < packed_rows ? 1 : most_panels);
    }

    /// sums[k][r] += sum_n W[n][column + k] dy[r][n] over the outputs n of the panels that go
    /// together from p on, while the next ones, or in the end dx, are asked for.
    void add_panels(const Part& part, const PackedWeights<C>& weights, Index p, const C* dy,
                    int width, C* sums) const {
        const Panel panel = weights.panel(p);
        const Index panels = together(weights, p), next = p + panels;
        const Index outputs = panels * panel.count, row = width * kernels_.lanes;
        StackScratch<C, most_panels * most * most> slopes;
        kernels_.load_queries(dy + panel.first, dy_.row_stride(), part.rows, outputs, C(1),
                              slopes.data, row);
        LinesAhead ahead;
        if (next == weights.panels())
            ahead.add(block_of(dx_, part));
        else
            ask_for_panels(part, weights, next, kernels_.asks(width, part.columns, outputs), ahead);
        kernels_.weighted_sums_of_parts[width - 1](
            weights.of_inputs(panel, part.column), panel.columns, part.columns, panels,
            weights.step_behind(panel), slopes.data, row, panel.count, sums, row, ahead);
    }

    /// The panels that go together from p on, by so many asks.
    void ask_for_panels(const Part& part, const PackedWeights<C>& weights, Index p, Index asks,
                        LinesAhead& ahead) const {
        const Index panels = together(weights, p);
        for (Index n = p; n < p + panels; ++n)
            ahead.add_evenly(weights.bytes_of(weights.panel(n), part.column, part.columns),
                             asks / panels);
    }

    /// Some rows, and the features of a tile.
    void multiply_tile_by_tile(Index piece) const {
        const Index block = piece / feature_tiles_.count(), tile = piece % feature_tiles_.count();
        const Index column = feature_tiles_.begin(tile);
        const Index row = feature_tiles_.width(tile) * kernels_.lanes;
        const Part part{blocks_.begin(block), blocks_.size(block), column,
                        std::min(row, dx_.columns() - column)};
        StackScratch<C, terms * most> panel;
        StackScratch<C, most_rows * most> sums;
        std::fill_n(sums.data, part.rows * row, C(0));
        const Index outputs = weights_.matrix.extent(0);
        const TensorView<const C, 2> features = weights_.matrix.slice(1, part.column, part.columns);
        for (Index n = 0; n < outputs; n += terms) {
            const Index end = std::min(n + terms, outputs);
            LinesAhead ahead;
            if (end < outputs)
                ahead.add(features.slice(0, end, std::min(terms, outputs - end)));
            else
                ahead.add(block_of(dx_, part));
            load_panel(features.slice(0, n, end - n), row, panel.data);
            kernels_.weighted_sums[feature_tiles_.width(tile) - 1](
                dy_.first_of(part.row) + n, dy_.row_stride(), part.rows, panel.data, row, end - n,
                sums.data, row, ahead);
        }
        finish(part, sums.data, row);
    }

    /// From rows of sums to rows of dx.
    void finish(const Part& part, const C* sums, Index row) const {
        RowFinish<C> f;
        f.residual = rows_of(residual_, part);
        layer_kernels<C>().finish_rows(sums, row, part.rows, part.columns, f,
                                       dx_.first_of(part.row) + part.column, dx_.row_stride());
    }

    const TileKernels<C>& kernels_;
    RowList<const C> dy_;
    BackwardWeights<C> weights_;
    RowList<C> dx_;
    RowList<const C> residual_;
    CommonRows common_;
    Way way_;
    LaneTiling row_tiles_;
    Index inputs_;
    RowBlocks blocks_;
    LaneTiling feature_tiles_;
    Index group_tiles_;
};

}  // namespace heed::inline v0::detail
