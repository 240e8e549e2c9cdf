#pragma once
// In which order do the weights of a product lie, so that it reads them one after another?
// Panels of W [out, in]: some outputs side by side on lanes, one input after another. Owns their
// memory; the layout is the same for every instruction set.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "heed/ops/tile_rows.hpp"
#include "heed/simd/lane_tiling.hpp"
#include "heed/simd/weight_dispatch.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

/// Types that weights may be stored in, to be computed with in float: the half types, and whole
/// numbers of 8 bits with a scale for each output.
template <class W>
concept NarrowWeight =
    std::same_as<W, half> || std::same_as<W, bfloat16> || std::same_as<W, std::int8_t>;

namespace detail {

/// Inputs of a panel that all rows take in turn. Begins and ends of sums take time: they are long
/// where one pass of registers reads the panel, of which a part and the one that is asked for stay
/// in the second-level cache.
inline constexpr Index long_panel_terms = 1024;
/// Where several passes do, or where weights are widened first: a part that stays in the
/// first-level cache.
inline constexpr Index panel_terms = 128;
/// For few rows and many weights, which wait for memory: what comes from it and what does not take
/// turns that are shorter than what the processor reads ahead.
inline constexpr Index panel_terms_of_few = 32, few_panel_rows = 16;

/// Rows that take a panel together where it is one part: they stay in registers.
inline constexpr Index panel_rows = 8;

/// At least so far behind the weights that are read now others are asked for.
inline constexpr std::size_t least_bytes_ahead = std::size_t{64} << 10;

/// Some outputs of packed weights: [in][columns], padded with zeros to whole cache lines of C.
struct Panel {
    const std::byte* weights;
    Index first;    ///< output
    Index count;    ///< outputs
    Index columns;  ///< with padding
};

/// How some rows go through a panel.
struct PanelPass {
    Panel panel;
    Index terms;     ///< of its parts, which the rows take in turn
    Index together;  ///< rows that must; one part they may take one after another, unless it is
                     ///< widened for all of them
};

/// sums[r][c] += sum_k x[r][k] * panel[k][c], or the sums begin with it, whatever they were; in
/// passes of registers over the panel's columns.
template <class C>
void multiply_panel(const C* x, Index x_row, Index rows, const C* panel, Index columns, Index terms,
                    bool begins, C* sums, LinesAhead& ahead) {
    const TileKernels<C>& kernels = tile_kernels<C>();
    const auto* const multiply = kernels.sums_that_begin(begins);
    const LaneTiling passes(columns, kernels.lanes);
    for (Index pass = 0; pass < passes.count(); ++pass) {
        const Index first = passes.begin(pass);
        multiply[passes.width(pass) - 1](x, x_row, rows, panel + first, columns, terms,
                                         sums + first, columns, ahead);
    }
}

/// How many lines multiply_panel asks for.
template <class C>
[[nodiscard]] Index panel_asks(Index rows, Index columns, Index terms) {
    const TileKernels<C>& kernels = tile_kernels<C>();
    const LaneTiling passes(columns, kernels.lanes);
    Index asks = 0;
    for (Index pass = 0; pass < passes.count(); ++pass)
        asks += kernels.asks(passes.width(pass), rows, terms);
    return asks;
}

/// How products read weights of a type of storage.
template <class C>
struct WeightStorage {
    std::size_t bytes;  ///< of a weight
    /// So many rows or fewer read it in place, whatever the number of terms; for more rows at most
    /// panel_terms are widened at once. None where nothing is widened.
    Index direct_rows;
    /// As multiply_panel.
    void (*multiply)(const C* x, Index x_row, Index rows, const std::byte* panel, Index columns,
                     Index terms, bool begins, C* sums, LinesAhead& ahead);
};

template <class C>
void multiply_stored_as_is(const C* x, Index x_row, Index rows, const std::byte* panel,
                           Index columns, Index terms, bool begins, C* sums, LinesAhead& ahead) {
    multiply_panel(x, x_row, rows, reinterpret_cast<const C*>(panel), columns, terms, begins, sums,
                   ahead);
}

template <class W>
void multiply_stored_narrow(const float* x, Index x_row, Index rows, const std::byte* bytes,
                            Index columns, Index terms, bool begins, float* sums,
                            LinesAhead& ahead) {
    const WeightKernels<W>& kernels = weight_kernels<W>();
    const auto* const panel = reinterpret_cast<const W*>(bytes);
    if (rows > most_direct_rows) {
        alignas(64) float wide[static_cast<std::size_t>(panel_terms * most_tile_lanes<float>)];
        kernels.widen(panel, terms * columns, wide);
        return multiply_panel(x, x_row, rows, wide, columns, terms, begins, sums, ahead);
    }
    if (begins) std::fill_n(sums, rows * columns, 0.0F);
    const LaneTiling passes(columns, tile_kernels<float>().lanes);
    for (Index pass = 0; pass < passes.count(); ++pass) {
        const Index first = passes.begin(pass);
        kernels.multiply[passes.width(pass) - 1](x, x_row, rows, panel + first, columns, terms,
                                                 sums + first, columns);
    }
}

template <class C, class W>
inline constexpr WeightStorage<C> weight_storage = {sizeof(W), most_direct_rows,
                                                    multiply_stored_narrow<W>};
template <class C>
inline constexpr WeightStorage<C> weight_storage<C, C> = {sizeof(C), 0, multiply_stored_as_is<C>};

/// Weights W [out, in] in panels, with a scale for each output where they are whole numbers.
template <ComputeScalar C>
class PackedWeights {
  public:
    [[nodiscard]] bool empty() const { return storage_ == nullptr; }
    [[nodiscard]] Index outputs() const { return outputs_; }
    [[nodiscard]] Index inputs() const { return inputs_; }
    /// Null where the weights are what they are.
    [[nodiscard]] const C* scales() const { return scales_.data(); }

    /// Packs weights with contiguous rows in their own type, into the memory of those before where
    /// they had the same sizes.
    void pack(TensorView<const C, 2> weight) {
        make_room<C>(weight);
        for (Index p = 0; p < panels(); ++p) pack_panel(weight, p, memory_of<C>(p));
    }

    /// Packs weights in fewer bits: rounded to the nearest; whole numbers in steps of the largest
    /// magnitude of each output over 127.
    /// Throws ArgumentError for whole numbers of weights that are not finite.
    template <NarrowWeight W>
    void pack_as(TensorView<const C, 2> weight) requires std::same_as<C, float> {
        if constexpr (std::is_same_v<W, std::int8_t>) require_finite(weight);
        make_room<W>(weight);
        AlignedArray<C> wide(static_cast<std::size_t>(inputs_ * most_tile_lanes<C>));
        if constexpr (std::is_same_v<W, std::int8_t>) find_scales(weight);
        for (Index p = 0; p < panels(); ++p) {
            pack_panel(weight, p, wide.data());
            const Panel to = panel(p);
            W* const weights = memory_of<W>(p);
            for (Index n = 0; n < inputs_ * to.columns; ++n)
                weights[n] = narrow<W>(wide.data()[n], to.first + n % to.columns);
        }
    }

    /// W as it is computed with, rounded where it was packed in fewer bits.
    void unpack(TensorView<C, 2> weight) const {
        AlignedArray<C> row(static_cast<std::size_t>(most_tile_lanes<C>));
        for (Index p = 0; p < panels(); ++p) {
            const Panel from = panel(p);
            for (Index k = 0; k < inputs_; ++k) {
                // The product of 1 and the weights of one input.
                const C one = 1;
                LinesAhead ahead;
                storage_->multiply(&one, 1, 1, at(from, k), from.columns, 1, true, row.data(),
                                   ahead);
                for (Index n = 0; n < from.count; ++n)
                    weight(from.first + n, k) =
                        row.data()[n] * (scales() == nullptr ? C(1) : scales()[from.first + n]);
            }
        }
    }

    [[nodiscard]] Index panels() const { return tiling_.count(); }
    [[nodiscard]] Panel panel(Index p) const {
        const Index first = tiling_.begin(p), columns = tiling_.width(p) * most_lanes<C>;
        return {memory_.data() + static_cast<std::size_t>(first * inputs_) * storage_->bytes, first,
                std::min(columns, outputs_ - first), columns};
    }
    /// How many panels from p on, `most` at most, are full and as wide as the first.
    [[nodiscard]] Index panels_alike(Index p, Index most) const {
        const Index columns = panel(p).columns, end = std::min(p + most, panels());
        Index next = p + 1;
        while (next < end && panel(next).columns == columns && panel(next).count == columns) ++next;
        return next - p;
    }
    /// How many weights lie between the beginnings of a panel and of one behind it.
    [[nodiscard]] Index step_behind(const Panel& panel) const { return panel.columns * inputs_; }
    /// The memory of some inputs of a panel.
    [[nodiscard]] std::span<const std::byte> bytes_of(const Panel& panel, Index input,
                                                      Index count) const {
        return {at(panel, input), size_of(panel, count)};
    }
    /// What to ask for on the way: as much as the panel has, from one part behind its begin on.
    /// What lies farther would drive from the second-level cache what every panel reads again.
    [[nodiscard]] std::span<const std::byte> bytes_after(const PanelPass& pass) const {
        const std::span<const std::byte> all(memory_.data(), memory_.size());
        const std::size_t size = size_of(pass.panel, inputs_);
        const std::size_t ahead =
            std::min(size, std::max(size_of(pass.panel, pass.terms), least_bytes_ahead));
        const std::size_t begin = static_cast<std::size_t>(pass.panel.weights - all.data()) + ahead;
        return all.subspan(begin, std::min(size, all.size() - begin));
    }
    /// A panel's weights from an input on, [in][columns], of weights that were packed in their own
    /// type.
    [[nodiscard]] const C* of_inputs(const Panel& panel, Index input) const {
        return reinterpret_cast<const C*>(at(panel, input));
    }

    [[nodiscard]] PanelPass pass(Index p, Index rows) const {
        const Index terms = terms_at_once(rows);
        const bool is_one_part = terms == inputs_ && storage_->direct_rows == 0;
        return {panel(p), terms, is_one_part ? std::min(rows, panel_rows) : rows};
    }

    /// sums[r][c] = sum_k x[r][k] W[first + c][k], in ascending order, without the scales. Rows of
    /// the sums are the panel's columns apart.
    void multiply(const PanelPass& pass, const C* x, Index x_row, Index rows, C* sums,
                  LinesAhead& ahead) const {
        const Panel& panel = pass.panel;
        Index k = 0;
        do {  // of no inputs, too: the sums are 0
            storage_->multiply(x + k, x_row, rows, at(panel, k), panel.columns,
                               std::min(pass.terms, inputs_ - k), k == 0, sums, ahead);
            k += pass.terms;
        } while (k < inputs_);
    }

  private:
    [[nodiscard]] Index terms_at_once(Index rows) const {
        if (rows <= storage_->direct_rows) return inputs_;
        const bool waits = rows <= few_panel_rows && memory_.size() > near_bytes;
        const bool is_one_pass = tile_kernels<C>().lanes == most_lanes<C>;
        const bool are_long = is_one_pass && storage_->direct_rows == 0;
        return std::min(inputs_, waits      ? panel_terms_of_few
                                 : are_long ? long_panel_terms
                                            : panel_terms);
    }

    [[nodiscard]] const std::byte* at(const Panel& panel, Index input) const {
        return panel.weights + size_of(panel, input);
    }
    /// In bytes, of so many inputs.
    [[nodiscard]] std::size_t size_of(const Panel& panel, Index inputs) const {
        return static_cast<std::size_t>(inputs * panel.columns) * storage_->bytes;
    }
    template <class W>
    [[nodiscard]] W* memory_of(Index p) {
        return reinterpret_cast<W*>(memory_.data()) + tiling_.begin(p) * inputs_;
    }

    template <class W>
    void make_room(TensorView<const C, 2> weight) {
        outputs_ = weight.extent(0);
        tiling_ = {outputs_, static_cast<int>(most_lanes<C>)};
        inputs_ = weight.extent(1);
        storage_ = &weight_storage<C, W>;
        scales_ = AlignedArray<C>();
        const auto lines = static_cast<std::uint64_t>(pieces(outputs_, most_lanes<C>));
        const std::size_t bytes =
            (CheckedSize<>("PackedWeights", lines) * static_cast<std::uint64_t>(inputs_) *
             (static_cast<std::uint64_t>(most_lanes<C>) * sizeof(W)))
                .bytes();
        if (memory_.size() != bytes) memory_ = AlignedArray<std::byte>(bytes);
    }

    void pack_panel(TensorView<const C, 2> weight, Index p, C* to) const {
        const Panel panel = this->panel(p);
        // Weights become lanes as queries do; lanes without a weight are 0.
        tile_kernels<C>().load_queries(weight.row(panel.first), weight.stride(0), panel.count,
                                       inputs_, C(1), to, panel.columns);
    }

    static void require_finite(TensorView<const C, 2> weight) {
        if (!tile_kernels<C>().all_finite(weight.data(), weight.stride(0), weight.extent(0),
                                          weight.extent(1)))
            fail<ArgumentError>("PackedWeights",
                                "weights that are stored as whole numbers must be ",
                                "finite; found NaN or infinity");
    }

    void find_scales(TensorView<const C, 2> weight) {
        scales_ = AlignedArray<C>(static_cast<std::size_t>(outputs_));
        for (Index n = 0; n < outputs_; ++n) {
            C largest = 0;
            for (Index k = 0; k < inputs_; ++k) largest = std::max(largest, std::abs(weight(n, k)));
            scales_.data()[n] = largest / C(127);
        }
    }

    template <class W>
    [[nodiscard]] W narrow(C weight, Index output) const {
        if constexpr (std::is_same_v<W, std::int8_t>) {
            const C scale = output < outputs_ ? scales_.data()[output] : C(0);
            if (scale == C(0)) return 0;
            // Beyond 127 only where the scale itself was rounded, below the normal range.
            return static_cast<W>(std::lround(std::clamp(weight / scale, C(-127), C(127))));
        } else {
            return convert<W>(weight);
        }
    }

    const WeightStorage<C>* storage_ = nullptr;
    AlignedArray<std::byte> memory_;
    AlignedArray<C> scales_;
    Index outputs_ = 0, inputs_ = 0;
    LaneTiling tiling_;
};

}  // namespace detail
}  // namespace heed::inline v0
