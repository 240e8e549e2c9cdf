#pragma once
// Which operations do the rows of a layer consist of, beside products?
// The table that each instruction set fills in, as that of tile_kernels.hpp. Rows are contiguous
// and need no alignment; columns lie on the lanes.

#include "heed/simd/activation_kind.hpp"
#include "heed/simd/tile_kernels.hpp"

namespace heed::inline v0::detail {

/// Rows of columns, or none.
template <class T>
struct Rows {
    T* data = nullptr;
    Index stride = 0;

    [[nodiscard]] Rows from_row(Index r) const {
        return data == nullptr ? *this : Rows{data + r * stride, stride};
    }
};

/// What becomes of a row of sums s: y = residual + act(x) with x = scale * s + bias, or with a gate
/// y = residual + act(g) * x with g = gate_scale * gate + gate_bias. What is null is left out.
template <class T>
struct RowFinish {
    const T* scale = nullptr;  ///< [columns], as those that are no Rows
    const T* bias = nullptr;
    Activation activation = Activation::none;
    const T* gate = nullptr;  ///< rows like those of the sums
    const T* gate_scale = nullptr;
    const T* gate_bias = nullptr;
    Rows<T> x = {}, g = {};       ///< written where backward needs them
    Rows<const T> residual = {};  ///< may be the output

    /// The same from row r on, but for the gate, which is that of the sums.
    [[nodiscard]] RowFinish from_row(Index r) const {
        RowFinish finish = *this;
        finish.x = x.from_row(r);
        finish.g = g.from_row(r);
        finish.residual = residual.from_row(r);
        return finish;
    }
};

/// A norm takes x to (x - shift) * factor.
template <class T>
struct RowScale {
    T shift;
    T factor;
};

/// The numbers of one step of AdamW, in the arithmetic of the parameters.
template <class T>
struct AdamWStep {
    T beta2, share1, share2;  ///< share = 1 - beta
    T rate;                   ///< learning rate / (1 - beta1^t)
    T root;                   ///< sqrt(1 - beta2^t)
    T epsilon;
    T keep;  ///< what weight decay multiplies the parameter by
};

template <class T>
struct LayerKernels {
    /// out[r][c] by RowFinish from sums[r][c], for c < columns. Rows of sums are `row` elements
    /// apart, those of out `stride`.
    void (*finish_rows)(const T* sums, Index row, Index rows, Index columns,
                        const RowFinish<T>& finish, T* out, Index stride);

    /// x[c] = act(x[c]), within 6 units in the last place of the result, and where x is negative
    /// 2 x^2 more.
    void (*activate)(Activation activation, T* x, Index count);
    /// dx[c] = dy[c] * act'(x[c]), within 4 units in the last place of dy; dx may be x or dy.
    void (*activation_gradient)(Activation activation, const T* x, const T* dy, Index count, T* dx);

    /// to[c] += from[c], to[c] *= from[c], to[c] *= factor.
    void (*add)(const T* from, Index count, T* to);
    void (*multiply)(const T* from, Index count, T* to);
    void (*scale)(T factor, Index count, T* to);

    /// sum_c x[c], and sum_c (x[c] - shift)^2.
    T (*sum)(const T* x, Index count);
    T (*squares)(const T* x, Index count, T shift);
    /// sum_c x[c]^2, in double.
    double (*wide_squares)(const T* x, Index count);

    /// y[c] = (x[c] - shift) * factor * weight[c] + bias[c]; an absent weight is 1, a bias 0.
    void (*scale_row)(const T* x, Index count, RowScale<T> by, const T* weight, const T* bias,
                      T* y);
    /// sums[0] = sum_c s[c], sums[1] = sum_c s[c] n[c], with s = dy * weight and
    /// n = (x - shift) * factor.
    void (*norm_sums)(const T* x, const T* dy, const T* weight, Index count, RowScale<T> by,
                      T* sums);
    /// dx[c] = factor * (s[c] - mean - n[c] * along); dx may be x or dy.
    void (*norm_gradient)(const T* x, const T* dy, const T* weight, Index count, RowScale<T> by,
                          T mean, T along, T* dx);
    /// dweight[c] += dy[c] * n[c] and dbias[c] += dy[c]; null is left out.
    void (*norm_parameters)(const T* x, const T* dy, Index count, RowScale<T> by, T* dweight,
                            T* dbias);

    /// max_c x[c], which passes over NaN; minus infinity for none.
    T (*largest)(const T* x, Index count);
    /// to[c] = exp(x[c] - shift) for x[c] <= shift; returns their sum. `to` may be x, or null.
    T (*exponentials)(const T* x, Index count, T shift, T* to);

    /// y[c] = residual[c] + (kept ? x[c] * scale : 0) for entries from `at.first_key` on, which are
    /// counted through: word `entry % 4` of Philox under the counter (entry / 4 in 64 bits, head,
    /// call). The residual may be null; y may be x or the residual.
    void (*drop_entries)(const T* x, const T* residual, Index count, const DropoutTile& at, T scale,
                         T* y);

    /// One step of each parameter w by its gradient g and moments m and v.
    void (*adamw)(const AdamWStep<T>& step, Index count, T* w, const T* g, T* m, T* v);
};

}  // namespace heed::inline v0::detail
