#pragma once
// How is y = act(x W^T + b), and what a layer does to it at once, computed at the speed of the
// machine?
// On the tile kernels of attention, in pieces that different workers may take, with scratch on the
// stack. Each element is one sum in ascending order: its bits depend neither on the other rows nor
// on the workers.
//
// Packed weights lie on lanes, and rows of x are read in place. Weights in place are read as the
// keys of an attention are, while rows of x lie on lanes; a few rows would leave most lanes empty,
// and for them some weights at a time are packed.

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "heed/base/executor.hpp"
#include "heed/ops/packed_weights.hpp"
#include "heed/ops/tile_rows.hpp"
#include "heed/simd/layer_dispatch.hpp"
#include "heed/tensor/checks.hpp"
#include "heed/tensor/row_list.hpp"

namespace heed::inline v0::detail {

/// Terms of the sums that are taken at once where rows lie on lanes: one factor stays in the
/// first-level cache.
inline constexpr Index product_terms = 128;
/// Features of the result beside the lanes of a tile. Half types need room to be widened.
template <class T>
inline constexpr Index product_outputs = ComputeScalar<T> ? 192 : 64;
/// Rows for which a packed panel is read: as many as may be, so that weights come from memory a few
/// times only, but fewer where all their sums are kept meanwhile, and where workers would find too
/// little to share.
inline constexpr Index most_packed_rows = 512, packed_rows = 128, least_packed_rows = 16;
inline constexpr Index pieces_per_worker = 4;
/// So many rows of one worker have no time to ask for more than weights.
inline constexpr Index waiting_rows = 32;
/// For up to so many rows it takes less time to pack the weights than to leave lanes empty.
inline constexpr Index few_rows = 8;

/// How much of something a piece takes: the most, or half as much and so on down to the fewest, so
/// that workers find enough pieces to share. pieces_of(n) is how many there are of n each.
template <class F>
[[nodiscard]] Index shared_out(Index most, Index fewest, int workers, const F& pieces_of) {
    while (workers > 1 && most > fewest && pieces_of(most) < pieces_per_worker * workers) most /= 2;
    return most;
}

/// Scratch on the stack, aligned to a cache line and not initialised.
template <class C, Index count>
struct StackScratch {
    alignas(64) C data[static_cast<std::size_t>(count)];
};

/// Ones, as many as a tile has lanes.
template <class C>
[[nodiscard]] std::array<C, static_cast<std::size_t>(most_tile_lanes<C>)> ones() {
    std::array<C, static_cast<std::size_t>(most_tile_lanes<C>)> result;
    result.fill(C(1));
    return result;
}

/// W [out, in], packed or with contiguous rows, and b [out] or an empty view.
template <class T>
struct ProductWeights {
    TensorView<const T, 2> weight = {};
    TensorView<const T, 1> bias = {};
    const PackedWeights<ComputeType<T>>* packed = nullptr;  ///< instead of weight
};

/// What becomes of the product on its way to y: y = residual + act(x W^T + b), or with a gate
/// y = residual + act(x G^T + g) * (x W^T + b).
template <class T>
struct ProductFinish {
    Activation activation = Activation::none;
    std::optional<ProductWeights<T>> gate = std::nullopt;  ///< as large as W, and packed if W is
    RowList<T> before = {};                                ///< receives x W^T + b
    RowList<T> gate_before = {};                           ///< receives x G^T + g
    RowList<const T> residual = {};                        ///< may be y
};

/// Some rows and columns of a result.
struct ResultPart {
    Index row, rows, column, columns;
};
/// Of a list of rows, as a view and as kernels take it; no Rows of an absent list.
template <class T>
[[nodiscard]] TensorView<T, 2> block_of(const RowList<T>& list, const ResultPart& part) {
    return list.block(part.row, part.rows).slice(1, part.column, part.columns);
}
template <class T>
[[nodiscard]] Rows<T> rows_of(const RowList<T>& list, const ResultPart& part) {
    if (list.is_absent()) return {};
    return {list.first_of(part.row) + part.column, list.row_stride()};
}

/// A sum of numbers of T that kernels can read: in place when they are dense and of the compute
/// type, else in scratch. Null for an empty view.
template <class C, class T>
[[nodiscard]] const C* dense(TensorView<const T, 1> view, C* scratch) {
    if (view.data() == nullptr) return nullptr;
    if constexpr (std::is_same_v<T, C>)
        if (view.has_contiguous_rows()) return view.data();
    copy(view, TensorView<C, 1>(scratch, view.shape()));
    return scratch;
}

template <StorageScalar T>
class Product {
  public:
    using C = ComputeType<T>;

    /// Rows are contiguous. `workers` is how many may take pieces at the same time.
    Product(RowList<const T> x, const ProductWeights<T>& weights, RowList<T> y, int workers,
            const ProductFinish<T>& finish = {})
        : x_(x),
          y_(y),
          weights_(weights),
          finish_(finish),
          workers_(workers),
          common_(x, y, finish.before, finish.gate_before, finish.residual),
          blocks_(common_, rows_at_once()),
          tiling_(common_.rows, tile_kernels<C>().lanes) {}

    [[nodiscard]] Index count() const {
        return is_packed() ? blocks_.count() * weights_.packed->panels()
                           : common_.matrices * tiling_.count() * column_blocks();
    }

    void operator()(Index piece, int /*worker*/) const {
        if (!is_packed()) return multiply_in_place(piece);
        if constexpr (std::is_same_v<T, C>) multiply_packed(piece);
    }

  private:
    static constexpr bool widens = !std::is_same_v<T, C>;
    static constexpr Index most = most_tile_lanes<C>, outputs = product_outputs<T>;

    using Part = ResultPart;

    [[nodiscard]] bool is_packed() const { return weights_.packed != nullptr; }
    [[nodiscard]] Index column_blocks() const { return pieces(y_.columns(), outputs); }

    [[nodiscard]] Index rows_at_once() const {
        if (!is_packed()) return packed_rows;
        const bool are_kept = passes(0, common_.rows).together > panel_rows;
        Index rows = are_kept ? packed_rows : most_packed_rows;
        // Every panel reads them again.
        while (rows > least_packed_rows && !is_near(rows * x_.columns(), sizeof(C))) rows /= 2;
        const Index panels = weights_.packed->panels() * common_.matrices;
        return shared_out(rows, least_packed_rows, workers_,
                          [&](Index n) { return pieces(common_.rows, n) * panels; });
    }

    /// How rows go through a panel of the weights and one of the gate, if there is one.
    struct Passes {
        PanelPass weights, gate;
        Index together;  ///< rows whose sums are kept at a time
    };
    [[nodiscard]] Passes passes(Index p, Index rows) const {
        const PanelPass weights = weights_.packed->pass(p, rows);
        const PanelPass gate = finish_.gate ? finish_.gate->packed->pass(p, rows) : weights;
        return {weights, gate, std::max(weights.together, gate.together)};
    }

    /// A panel of weights and a block of rows, whose sums are finished while they are near.
    void multiply_packed(Index piece) const {
        const Index panels = weights_.packed->panels(), block = piece / panels, p = piece % panels;
        const Passes by = passes(p, blocks_.size(block));
        const Panel& panel = by.weights.panel;
        const Part part{blocks_.begin(block), blocks_.size(block), panel.first, panel.count};
        StackScratch<C, packed_rows * most> sums, gate;
        FinishScratch scratch;
        const RowFinish<C> finish = row_finish(part, gate.data, scratch);
        LinesAhead ahead = lines_ahead(p, block, part, by);
        for (Index r = 0; r < part.rows; r += by.together) {
            const Index rows = std::min(by.together, part.rows - r);
            const auto multiply = [&](const PackedWeights<C>& weights, const PanelPass& pass,
                                      C* to) {
                weights.multiply(pass, x_.first_of(part.row) + r * x_.row_stride(), x_.row_stride(),
                                 rows, to, ahead);
            };
            multiply(*weights_.packed, by.weights, sums.data);
            if (finish_.gate) multiply(*finish_.gate->packed, by.gate, gate.data);
            layer_kernels<C>().finish_rows(
                sums.data, panel.columns, rows, part.columns, finish.from_row(r),
                y_.first_of(part.row) + r * y_.row_stride() + part.column, y_.row_stride());
        }
    }

    /// What is wanted on the way: what the last step reads, the next rows, and the next weights.
    [[nodiscard]] LinesAhead lines_ahead(Index p, Index block, const Part& part,
                                         const Passes& by) const {
        LinesAhead ahead;
        // As many asks as there are steps, of which those for rows take about half.
        Index asks = panel_asks<C>(part.rows, by.weights.panel.columns, x_.columns());
        // One worker with few rows waits for weights alone.
        if (!finish_.residual.is_absent() && (workers_ > 1 || part.rows > waiting_rows))
            ahead.add(block_of(finish_.residual, part));
        if (p + 1 == weights_.packed->panels() && block + 1 < blocks_.count()) {
            ahead.add(x_.block(blocks_.begin(block + 1), blocks_.size(block + 1)));
            asks /= 2;
        }
        ahead.add_evenly(weights_.packed->bytes_after(by.weights), asks);
        if (finish_.gate) ahead.add_evenly(finish_.gate->packed->bytes_after(by.gate), asks);
        return ahead;
    }

    /// A tile of rows and some features.
    void multiply_in_place(Index piece) const {
        const Index group = piece / column_blocks(), tile = group % tiling_.count();
        const Index lanes = tile_kernels<C>().lanes, begin = tiling_.begin(tile);
        const Index column = piece % column_blocks() * outputs;
        const Part part{group / tiling_.count() * common_.rows + begin,
                        std::min<Index>(tiling_.width(tile) * lanes, common_.rows - begin), column,
                        std::min(outputs, y_.columns() - column)};
        StackScratch<C, outputs * most> sums, gate;
        multiply_tile(part, tiling_.width(tile), weights_.weight, sums.data);
        if (finish_.gate) multiply_tile(part, tiling_.width(tile), finish_.gate->weight, gate.data);
        finish(part, sums.data, gate.data, outputs);
    }

    /// rows[r][c] = sum_k x[r][k] W[c][k], rows `outputs` apart.
    void multiply_tile(const Part& part, int width, TensorView<const T, 2> weight, C* rows) const {
        const TileKernels<C>& kernels = tile_kernels<C>();
        const TensorView<const T, 2> x = x_.block(part.row, part.rows);
        const TensorView<const T, 2> by = weight.slice(0, part.column, part.columns);
        if constexpr (!widens)
            if (common_.rows <= few_rows) return multiply_few(x, by, rows);
        StackScratch<C, product_terms * most> lanes;
        StackScratch<C, outputs * most> sums;
        StackScratch<C, widens ? product_terms * most : 1> wide_x;
        StackScratch<C, widens ? outputs * product_terms : 1> wide_weight;
        const Index row = width * kernels.lanes, length = by.extent(1);
        std::fill_n(sums.data, part.columns * row, C(0));
        LinesAhead ahead;
        for (Index k = 0; k < length; k += product_terms) {
            const Index count = std::min(product_terms, length - k);
            const TileRows<C> from(x.slice(1, k, count), wide_x.data);
            kernels.load_queries(from.data, from.stride, part.rows, count, C(1), lanes.data, row);
            const TileRows<C> weights(by.slice(1, k, count), wide_weight.data);
            kernels.weighted_sums[width - 1](weights.data, weights.stride, part.columns, lanes.data,
                                             row, count, sums.data, row, ahead);
        }
        kernels.finish(sums.data, row, part.columns, part.rows, ones<C>().data(), rows, outputs);
    }

    /// The same for few rows: a panel's worth of weights at a time, on lanes.
    static void multiply_few(TensorView<const C, 2> x, TensorView<const C, 2> weight, C* rows) {
        StackScratch<C, product_terms * most> panel;
        StackScratch<C, few_rows * most> sums;
        const LaneTiling panels(weight.extent(0), static_cast<int>(most_lanes<C>));
        for (Index p = 0; p < panels.count(); ++p) {
            const Index first = panels.begin(p), columns = panels.width(p) * most_lanes<C>;
            const Index count = std::min(columns, weight.extent(0) - first);
            LinesAhead ahead;
            Index k = 0;
            do {  // of no features, too: the sums are 0
                const Index terms = std::min(product_terms, weight.extent(1) - k);
                tile_kernels<C>().load_queries(weight.row(first) + k, weight.stride(0), count,
                                               terms, C(1), panel.data, columns);
                multiply_panel(x.data() + k, x.stride(0), x.extent(0), panel.data, columns, terms,
                               k == 0, sums.data, ahead);
                k += product_terms;
            } while (k < weight.extent(1));
            for (Index i = 0; i < x.extent(0); ++i)
                std::copy_n(sums.data + i * columns, count, rows + i * outputs + first);
        }
    }

    /// For biases that kernels cannot read in place.
    struct FinishScratch {
        std::array<C, static_cast<std::size_t>(outputs)> bias, gate_bias;
    };

    /// What becomes of sums, beside those of the gate.
    [[nodiscard]] RowFinish<C> row_finish(const Part& part, const C* gate,
                                          FinishScratch& scratch) const {
        RowFinish<C> f;
        f.activation = finish_.activation;
        f.scale = scales_of(weights_, part);
        f.bias = bias_of(weights_, part, scratch.bias.data());
        if (finish_.gate) {
            f.gate = gate;
            f.gate_scale = scales_of(*finish_.gate, part);
            f.gate_bias = bias_of(*finish_.gate, part, scratch.gate_bias.data());
        }
        if constexpr (!widens) {
            f.x = rows_of(finish_.before, part);
            f.g = rows_of(finish_.gate_before, part);
            f.residual = rows_of(finish_.residual, part);
        }
        return f;
    }

    void finish(const Part& part, const C* sums, const C* gate, Index row) const {
        FinishScratch scratch;
        const RowFinish<C> f = row_finish(part, gate, scratch);
        const LayerKernels<C>& kernels = layer_kernels<C>();
        if constexpr (widens) {
            StackScratch<C, outputs * most> rows;
            kernels.finish_rows(sums, row, part.rows, part.columns, f, rows.data, part.columns);
            const TensorView<T, 2> y = block_of(y_, part);
            copy(TensorView<const C, 2>(rows.data, y.shape()), y);
        } else {
            kernels.finish_rows(sums, row, part.rows, part.columns, f,
                                y_.first_of(part.row) + part.column, y_.row_stride());
        }
    }

    static const C* scales_of(const ProductWeights<T>& weights, const Part& part) {
        const bool has = weights.packed != nullptr && weights.packed->scales() != nullptr;
        return has ? weights.packed->scales() + part.column : nullptr;
    }
    static const C* bias_of(const ProductWeights<T>& weights, const Part& part, C* scratch) {
        if (weights.bias.empty()) return nullptr;
        return dense<C>(weights.bias.slice(0, part.column, part.columns), scratch);
    }

    RowList<const T> x_;
    RowList<T> y_;
    ProductWeights<T> weights_;
    ProductFinish<T> finish_;
    int workers_;
    CommonRows common_;
    RowBlocks blocks_;
    LaneTiling tiling_;
};

}  // namespace heed::inline v0::detail
