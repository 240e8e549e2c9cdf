#pragma once
// Which entries does dropout keep?
// A pure function of seed, call and position; holds no state and works on any element in any order.

#include <cmath>
#include <cstdint>

#include "heed/base/contract.hpp"
#include "heed/simd/layer_dispatch.hpp"
#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"
#include "heed/tensor/philox.hpp"
#include "heed/tensor/row_list.hpp"

namespace heed::inline v0 {

/// Inverted dropout: an entry is set to 0 with `probability`, and multiplied by
/// 1 / (1 - probability) otherwise, so that its expectation does not change.
/// Source: Srivastava et al., JMLR 15 (2014).
struct Dropout {
    double probability = 0.0;  ///< of being dropped, in [0, 1]; 0 switches dropout off
    std::uint64_t seed = 0;    ///< the same seed and call give the same entries, everywhere
    std::uint32_t call = 0;    ///< count it up to draw fresh entries under the same seed
};

namespace detail {

/// Dropout with its probability turned into what a comparison needs.
class DropoutRule {
  public:
    /// Throws ArgumentError unless the probability is in [0, 1].
    DropoutRule(std::string_view where, const Dropout& dropout)
        : key_(philox_key(dropout.seed)), call_(dropout.call) {
        const double p = dropout.probability;
        if (!(p >= 0.0 && p <= 1.0))
            fail<ArgumentError>(where, "the dropout probability must be in [0, 1]; found ", p);
        threshold_ = static_cast<std::uint64_t>(std::ldexp(p, 32));
        scale_ = p < 1.0 ? 1.0 / (1.0 - p) : 0.0;
    }

    [[nodiscard]] bool active() const { return threshold_ > 0; }
    [[nodiscard]] double scale() const { return scale_; }

    /// Four neighbours of the innermost dimension share one Philox block; the other three counter
    /// words hold the remaining position and the call.
    [[nodiscard]] bool keeps(std::uint32_t outer, std::uint32_t middle, std::uint64_t inner) const {
        const PhiloxCounter bits =
            philox({static_cast<std::uint32_t>(inner / 4), middle, outer, call_}, key_);
        return bits[inner % 4] >= threshold_;
    }

    /// What a kernel needs to know the same of all entries from the given one on. Only while
    /// active.
    [[nodiscard]] DropoutTile tile(std::uint32_t outer, std::uint32_t middle,
                                   std::uint64_t inner) const {
        return {key_, call_, outer, middle, inner, threshold_};
    }

  private:
    PhiloxKey key_;
    std::uint32_t call_;
    std::uint64_t threshold_ = 0;  ///< an entry is dropped when its 32 random bits are below
    double scale_ = 1.0;
};

}  // namespace detail

namespace detail {

/// Dropout of the rows of a tensor, whose entries are counted in row-major order.
template <StorageScalar T>
class DropoutOfRow {
  public:
    explicit DropoutOfRow(const DropoutRule& rule)
        : rule_(rule), scale_(static_cast<ComputeType<T>>(rule.scale())) {}

    /// y = residual + dropout(x) for a row that begins with entry `first`; the residual may be
    /// absent (null), and y may be either.
    void operator()(TensorView<const T, 1> x, TensorView<const T, 1> residual, TensorView<T, 1> y,
                    std::uint64_t first) const {
        if constexpr (ComputeScalar<T>)
            if (rule_.active() && x.has_contiguous_rows() && residual.has_contiguous_rows() &&
                y.has_contiguous_rows())
                return layer_kernels<T>().drop_entries(x.data(), residual.data(), x.extent(0),
                                                       rule_.tile(0, 0, first), scale_, y.data());
        for (Index c = 0; c < x.extent(0); ++c) {
            const T kept = drop(x(c), first + static_cast<std::uint64_t>(c));
            y(c) = residual.data() == nullptr ? kept : residual(c) + kept;
        }
    }

  private:
    // Counter words: 2^34 entries to a "middle" step leave room for any tensor.
    static constexpr int middle_bits = 34;
    static constexpr std::uint64_t inner_mask = (std::uint64_t{1} << middle_bits) - 1;

    [[nodiscard]] T drop(T x, std::uint64_t entry) const {
        const auto middle = static_cast<std::uint32_t>(entry >> middle_bits);
        const bool keep = rule_.keeps(0, middle, entry & inner_mask);
        return keep ? static_cast<T>(static_cast<ComputeType<T>>(x) * scale_) : T(0);
    }

    DropoutRule rule_;
    ComputeType<T> scale_;
};

/// y = residual + dropout(x) row by row, in pieces of some rows that different workers may take; y
/// may be x or the residual.
template <ComputeScalar T>
class DropoutRows {
  public:
    DropoutRows(const Dropout& dropout, RowList<const T> x, RowList<T> y,
                RowList<const T> residual = {})
        : of_row_(DropoutRule("Dropout", dropout)),
          x_(x),
          y_(y),
          residual_(residual),
          blocks_(CommonRows(x, y, residual), rows_of_piece) {}

    [[nodiscard]] Index count() const { return blocks_.count(); }

    void operator()(Index piece, int /*worker*/) const {
        const Index first = blocks_.begin(piece);
        for (Index i = first; i < first + blocks_.size(piece); ++i)
            of_row_(x_[i], residual_.is_absent() ? TensorView<const T, 1>() : residual_[i], y_[i],
                    static_cast<std::uint64_t>(i * x_.columns()));
    }

  private:
    static constexpr Index rows_of_piece = 16;

    DropoutOfRow<T> of_row_;
    RowList<const T> x_;
    RowList<T> y_;
    RowList<const T> residual_;
    RowBlocks blocks_;
};

/// y = dropout(x), where x begins with entry `first` of its tensor.
template <StorageScalar T, int Rank>
void drop_rows(const DropoutOfRow<T>& of_row, TensorView<const T, Rank> x, TensorView<T, Rank> y,
               std::uint64_t first) {
    if constexpr (Rank == 1) {
        of_row(x, {}, y, first);
    } else {
        for (Index i = 0; i < x.extent(0); ++i) {
            const TensorView<const T, Rank - 1> part = x.select(0, i);
            drop_rows<T, Rank - 1>(of_row, part, y.select(0, i),
                                   first + static_cast<std::uint64_t>(i * part.element_count()));
        }
    }
}

}  // namespace detail

/// y = dropout(x), element by element; x and y may be the same view, but not overlap otherwise.
/// Entry n in row-major order is kept or dropped by (seed, call, n) alone. A dropped entry is 0
/// whatever it was, NaN included. The way back is the same function: with the same options, dropout
/// of the gradient of y is the gradient of x. Throws ArgumentError for null or a probability
/// outside [0, 1], ShapeError for shapes that differ or overlap, before anything is written.
template <StorageScalar T, int Rank>
void dropout(InputView<T, Rank> x, TensorView<T, Rank> y, const Dropout& options) {
    detail::require_memory("dropout", "the input", x);
    detail::require_output("dropout", "the output", y, x.shape());
    detail::require_same_or_apart("dropout", x, y);
    detail::drop_rows(detail::DropoutOfRow<T>(detail::DropoutRule("dropout", options)), x, y, 0);
}

}  // namespace heed::inline v0
