#pragma once
// What else can be asked of an attention, beside its inputs and mask?
// Plain values and views of the caller's memory; an empty view means "not wanted".

#include <cstddef>
#include <optional>
#include <span>

#include "heed/base/executor.hpp"
#include "heed/ops/dropout.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {

/// At which point on its way to the softmax a score is shown.
enum class ScoreStage {
    scaled,  ///< scale * q k^T
    capped,  ///< after soft-cap
    masked,  ///< after biases and masks; hidden keys are minus infinity
};

/// Options of scaled_dot_product_attention for tensors of T.
template <StorageScalar T>
struct AttentionOptions {
    /// Factor of q k^T; 1 / sqrt(head_dim) when absent. 0 and negative values are meant as given.
    std::optional<double> scale = std::nullopt;

    /// Dropout of the weights, a pure function of (seed, call, b, h, q, k).
    Dropout dropout = {};

    /// Output [batch, heads, q_len]: log-sum-exp of each row of final scores; minus infinity for a
    /// row without a visible key. A sink is included.
    TensorView<ComputeType<T>, 3> lse = {};

    /// Output [batch, heads, q_len, kv_len]: the weights, before dropout, so that rows sum to 1
    /// (to 0 for a row without a visible key, to less than 1 beside a sink).
    TensorView<T, 4> weights = {};

    /// Output [batch, heads, q_len, kv_len]: the scores at `scores_at`.
    TensorView<T, 4> scores = {};
    ScoreStage scores_at = ScoreStage::masked;

    /// Who runs the tiles: a ThreadPool, an OpenMpExecutor, `serial` or any Executor. Absent: the
    /// process's (see set_num_threads), which is the caller's thread alone unless told otherwise.
    /// Small work stays on the caller's thread. The result has the same bits for every executor.
    std::optional<ExecutorRef> executor = std::nullopt;

    /// Scratch memory of at least attention_workspace_bytes; when empty, it is allocated.
    std::span<std::byte> workspace = {};

    /// True where weights or scores are asked for, which are made by the definition, row by row.
    [[nodiscard]] bool row_by_row() const {
        return detail::is_wanted(weights) || detail::is_wanted(scores);
    }
};

}  // namespace heed::inline v0
