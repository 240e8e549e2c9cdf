#pragma once
// What will an attention do, and how much work is it?
// Asks the same code that computes: plan, masks, tiles. Reads mask tensors where a mask must look
// at them, reads no key and no value, computes no attention and writes nothing.

#include <array>
#include <cstddef>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>

#include "heed/attention/scaled_dot_product_attention.hpp"

namespace heed::inline v0 {

enum class AttentionPath {
    fused,     ///< tile by tile, no weights in memory
    textbook,  ///< row by row, by the definition
};

[[nodiscard]] constexpr std::string_view path_name(AttentionPath path) {
    return path == AttentionPath::fused ? "fused" : "textbook";
}

/// How the rows of an input reach the kernels.
enum class RowAccess {
    in_place,  ///< the caller's memory, nothing is copied
    gathered,  ///< copied, because neighbours of a row are apart in memory
    widened,   ///< converted to the compute type, because they are stored as another
    copied,    ///< head by head, on the textbook path
};

[[nodiscard]] constexpr std::string_view access_name(RowAccess access) {
    constexpr std::array<std::string_view, 4> names{"in place", "gathered", "widened", "copied"};
    return names[static_cast<std::size_t>(access)];
}

/// Pairs of a query tile and a key tile, over all heads; what the masks answered for them. All are
/// 0 on the textbook path, which has no tiles.
struct TileCounts {
    Index all = 0;
    Index empty = 0;    ///< skipped: nobody sees a key of it
    Index full = 0;     ///< computed, and no mask edits a score
    Index partial = 0;  ///< computed as far as a row of lanes sees it, then edited

    friend bool operator==(const TileCounts&, const TileCounts&) = default;
};

/// What a call of scaled_dot_product_attention does.
struct AttentionExplanation {
    AttentionShape shape;

    AttentionPath path;
    std::string_view reason;  ///< of the path

    Isa isa;                        ///< in force; the textbook path has no kernels of its own
    std::string_view compute_type;  ///< "float" or "double"
    int lanes;                      ///< queries in a register
    Index query_tile;               ///< lanes of the widest tile of queries, 1 on the textbook path
    Index group_tiles;              ///< query tiles that pass over the keys together, at most
    Index key_tile;                 ///< most keys of a tile, kv_len on the textbook path
    TileCounts tiles = {};

    /// Pairs of query and key. Visible as the masks tell; what only scores tell (single biases of
    /// minus infinity, score functions) counts as visible. Computed are also hidden pairs of
    /// partial tiles, and lanes without a query.
    Index visible_pairs = 0;
    Index computed_pairs = 0;

    /// 2 * (head_dim + value_dim) for each such pair; softmax and masks are not counted. The
    /// textbook path adds up the values of visible pairs only.
    double visible_flops = 0;
    double computed_flops = 0;

    int workers;  ///< most that can have something to do
    std::size_t scratch_bytes_per_worker;
    std::size_t scratch_bytes;  ///< what the workspace must have

    RowAccess q;
    RowAccess k;
    RowAccess v;
};

namespace detail {

/// Asks the masks for each tile of queries, as the computation does.
template <class C, class Rules>
class TileCensus {
  public:
    TileCensus(const AttentionShape& shape, const Rules& rules) : shape_(shape), rules_(rules) {}

    /// Fills in tiles and pairs.
    void count(AttentionExplanation& result) {
        const Index key_tiles = pieces(shape_.kv_len, key_tile);
        for (Index b = 0; b < shape_.batch; ++b)
            for (Index h = 0; h < shape_.heads; ++h)
                for (Index sequence = 0; sequence < tiling_.sequences(); ++sequence)
                    count_sequence(b, h, sequence);
        result.tiles.all = shape_.batch * shape_.heads * tiling_.all_tiles() * key_tiles;
        result.tiles.full = full_;
        result.tiles.partial = partial_;
        result.tiles.empty = result.tiles.all - full_ - partial_;
        result.visible_pairs = visible_;
        result.computed_pairs = computed_;
    }

  private:
    void count_sequence(Index b, Index h, Index sequence) {
        const LaneTiling tiles = tiling_.tiles_of(sequence);
        for (Index t = 0; t < tiles.count(); ++t)
            count_query_tile({b, h, tiling_.queries(sequence).begin + tiles.begin(t), 0},
                             tiles.width(t), sequence);
    }

    void count_query_tile(const ScoreIndex& at, int width, Index sequence) {
        const Index lanes = width * kernels_.lanes;
        const Index queries = std::min(lanes, tiling_.queries(sequence).end - at.q);
        std::array<KeyRange, FusedScratch<C>::row> room;
        const TileRanges ranges(rules_, at, queries, shape_.kv_len, room.data());
        for_each_key_tile(ranges.some(), tiling_.first_key(sequence), [&](const KeyRange& range) {
            const Index first = range.begin, keys = range.end - range.begin;
            const ScoreTile<C> tile{
                kernels_, {at.b, at.h, at.q, first}, queries, keys, nullptr, lanes, nullptr};
            const Coverage flags = rules_.coverage(tile);
            if (flags == Coverage::none) return;
            const bool is_full = ranges.all_see(first, keys) && flags == Coverage::all;
            ++(is_full ? full_ : partial_);
            TileSteps steps;
            ranges.find_steps(first, keys, kernels_.lanes, width, steps);
            for (const TileStep& step : steps)
                computed_ += (step.keys.end - step.keys.begin) *
                             (step.end_register - step.first_register) * kernels_.lanes;
            for (Index i = 0; i < queries; ++i)
                visible_ +=
                    count_visible({at.b, at.h, at.q + i, 0}, ranges.of(i).intersect(range), flags);
        });
    }

    [[nodiscard]] Index count_visible(ScoreIndex at, const KeyRange& keys, Coverage flags) const {
        if (keys.is_empty()) return 0;
        if (flags == Coverage::all) return keys.end - keys.begin;
        Index seen = 0;
        for (at.k = keys.begin; at.k < keys.end; ++at.k) seen += rules_.visible(at) ? 1 : 0;
        return seen;
    }

    const AttentionShape& shape_;
    const Rules& rules_;
    const TileKernels<C>& kernels_ = tile_kernels<C>();
    QueryTiling tiling_{shape_.q_len, rules_.documents(), kernels_.lanes};
    Index full_ = 0, partial_ = 0, visible_ = 0, computed_ = 0;
};

template <class C, class T>
[[nodiscard]] RowAccess row_access(TensorView<const T, 4> rows) {
    if (TileRows<C>::is_in_place(rows)) return RowAccess::in_place;
    return std::same_as<T, C> ? RowAccess::gathered : RowAccess::widened;
}

[[nodiscard]] inline std::string_view reason_of_path(bool weights, bool scores) {
    if (weights && scores) return "weights and scores are asked for";
    if (weights) return "weights are asked for";
    if (scores) return "scores are asked for";
    return "neither weights nor scores are asked for";
}

/// What changes where the definition is followed row by row.
inline void explain_textbook(AttentionExplanation& e) {
    const AttentionShape& s = e.shape;
    e.path = AttentionPath::textbook;
    e.lanes = 1;
    e.query_tile = 1;
    e.group_tiles = 1;
    e.key_tile = s.kv_len;
    e.tiles = {};
    e.workers = 1;
    e.scratch_bytes_per_worker = e.scratch_bytes;
    e.q = RowAccess::in_place;
    e.k = e.v = RowAccess::copied;
    e.computed_pairs = s.batch * s.heads * s.q_len * s.kv_len;
    e.computed_flops =
        2 * (static_cast<double>(s.head_dim) * static_cast<double>(e.computed_pairs) +
             static_cast<double>(s.value_dim) * static_cast<double>(e.visible_pairs));
}

/// In registers; 0 without queries.
[[nodiscard]] inline int widest_tile(const QueryTiling& tiling) {
    int widest = 0;
    for (Index s = 0; s < tiling.sequences(); ++s)
        if (tiling.tiles_of(s).count() > 0) widest = std::max(widest, tiling.tiles_of(s).width(0));
    return widest;
}

/// The explanation of a checked call whose inputs are read as told.
template <class T, class Plan>
[[nodiscard]] AttentionExplanation explain_plan(const Plan& plan, RowAccess q, RowAccess k,
                                                RowAccess v) {
    using C = ComputeType<T>;
    const AttentionShape& s = plan.shape;
    const Execution<T> execution(s, plan.options);
    const TileKernels<C>& kernels = tile_kernels<C>();
    const QueryTiling tiling(s.q_len, plan.rules.documents(), kernels.lanes);
    const int concurrency = execution.executor.concurrency();
    const Schedule schedule(plan, tiling, kernels.lanes, concurrency);
    AttentionExplanation e{
        .shape = s,
        .path = AttentionPath::fused,
        .reason = reason_of_path(is_wanted(plan.options.weights), is_wanted(plan.options.scores)),
        .isa = kernels.isa,
        .compute_type = std::same_as<C, float> ? "float" : "double",
        .lanes = kernels.lanes,
        .query_tile = widest_tile(tiling) * kernels.lanes,
        .group_tiles = schedule.tiles_per_item(),
        .key_tile = key_tile,
        .workers = static_cast<int>(
            std::clamp<Index>(concurrency, 1, std::max<Index>(schedule.count(), 1))),
        .scratch_bytes_per_worker =
            (FusedScratch<C>::element_count(s) * static_cast<std::uint64_t>(sizeof(C))).bytes(),
        .scratch_bytes = execution.scratch_bytes,
        .q = q,
        .k = k,
        .v = v};
    TileCensus<C, decltype(plan.rules)>(s, plan.rules).count(e);
    const double flops_of_pair =
        2 * (static_cast<double>(s.head_dim) + static_cast<double>(s.value_dim));
    e.visible_flops = flops_of_pair * static_cast<double>(e.visible_pairs);
    e.computed_flops = flops_of_pair * static_cast<double>(e.computed_pairs);
    if (execution.row_by_row) explain_textbook(e);
    return e;
}

}  // namespace detail

/// What scaled_dot_product_attention(q, k, v, out, mask, options) will do: path, kernels, tiles
/// that the mask lets it skip, operations, memory, workers. Options as in that call: with weights
/// or scores it names the textbook path, with an executor that executor's workers.
///
/// Throws the same errors as the call, but for what concerns `out`. Reads no element of q, k and v.
/// Cost: the masks' answers for each pair of tiles, some thousandth of the attention itself.
template <TensorLike Q, TensorLike K, TensorLike V, ScorePart Mask = NoMask>
[[nodiscard]] AttentionExplanation explain(const Q& q, const K& k, const V& v,
                                           const Mask& mask = {},
                                           const AttentionOptions<ElementOf<Q>>& options = {}) {
    using T = ElementOf<Q>;
    using C = ComputeType<T>;
    detail::check_types<Q, K, V>();
    const auto q_rows = read(q);
    const auto k_rows = read(k);
    const auto v_rows = read(v);
    const auto plan = detail::bind_plan(detail::checked_inputs(q_rows, k_rows, v_rows), q_rows,
                                        k_rows, v_rows, TensorView<T, 4>(), mask, options);
    detail::check_options(plan);
    return detail::explain_plan<T>(plan, detail::row_access<C>(q_rows),
                                   detail::row_access<C>(k_rows), detail::row_access<C>(v_rows));
}

/// The same for sizes alone, before there is a tensor: dense rows of T.
///
///     std::cout << heed::explain<float>({.batch = 1, .heads = 12, ...}, heed::Causal{});
template <StorageScalar T = float, ScorePart Mask = NoMask>
[[nodiscard]] AttentionExplanation explain(const AttentionShape& shape, const Mask& mask = {},
                                           const AttentionOptions<T>& options = {}) {
    const auto sized = [&](Index heads, Index length, Index features) {
        return TensorView<const T, 4>(nullptr, {shape.batch, heads, length, features});
    };
    // No memory stands behind these views, so they serve for their sizes only.
    const AttentionShape checked =
        detail::attention_shape(sized(shape.heads, shape.q_len, shape.head_dim),
                                sized(shape.kv_heads, shape.kv_len, shape.head_dim),
                                sized(shape.kv_heads, shape.kv_len, shape.value_dim));
    const TensorView<const T, 4> none;
    const auto plan =
        detail::bind_plan(checked, none, none, none, TensorView<T, 4>(), mask, options);
    detail::check_options(plan);
    const RowAccess access = detail::row_access<ComputeType<T>>(none);
    return detail::explain_plan<T>(plan, access, access, access);
}

/// A few lines to read, each "what: how much".
[[nodiscard]] inline std::string to_string(const AttentionExplanation& e) {
    const auto kib = [](std::size_t bytes) { return (bytes + 1023) / 1024; };
    const bool few = e.computed_flops < 1e8;
    const double unit = few ? 1e6 : 1e9;
    std::ostringstream text;
    text.precision(3);
    text << "path:       " << path_name(e.path) << ", because " << e.reason << '\n';
    if (e.path == AttentionPath::fused)
        text << "kernels:    " << isa_name(e.isa) << ", " << e.lanes << " lanes of "
             << e.compute_type << '\n'
             << "tiles:      " << e.query_tile << " queries x " << e.key_tile << " keys; "
             << e.tiles.all << " in all, " << e.tiles.empty << " skipped, " << e.tiles.full
             << " full, " << e.tiles.partial << " partial\n";
    else
        text << "rows:       of " << e.key_tile << " keys, in " << e.compute_type << '\n';
    if (e.group_tiles > 1)
        text << "groups:     " << e.group_tiles << " query tiles pass over the keys together\n";
    text << "operations: " << e.computed_flops / unit << (few ? " MFLOP" : " GFLOP")
         << ", of which " << e.visible_flops / unit << " for visible pairs\n"
         << "memory:     " << kib(e.scratch_bytes) << " KiB of scratch, "
         << kib(e.scratch_bytes_per_worker) << " for each worker\n"
         << "workers:    " << e.workers << '\n'
         << "rows read:  q " << access_name(e.q) << ", k " << access_name(e.k) << ", v "
         << access_name(e.v) << '\n';
    return text.str();
}

inline std::ostream& operator<<(std::ostream& out, const AttentionExplanation& explanation) {
    return out << to_string(explanation);
}

}  // namespace heed::inline v0
