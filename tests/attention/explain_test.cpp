// Does explain() tell what the call then does? By hand, by counting pairs one by one, and by
// counting what the kernels are asked for while they compute.
#include "heed/attention/explain.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/random_case.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/isas.hpp"

namespace {

using attend::Inputs;
using heed::AttentionExplanation;
using heed::AttentionPath;
using heed::AttentionShape;
using heed::Causal;
using heed::explain;
using heed::Index;
using heed::Isa;
using heed::NoMask;
using heed::RowAccess;
using heed::ScorePart;
using heed::SlidingWindow;
using heed::Tensor;
using heed::TensorView;
using heed::TileCounts;
using testing::HasSubstr;

AttentionShape lengths(Index q_len, Index kv_len, Index heads = 1) {
    return {.batch = 1,
            .heads = heads,
            .kv_heads = heads,
            .q_len = q_len,
            .kv_len = kv_len,
            .head_dim = 64,
            .value_dim = 32};
}

// SSE2 and NEON: 4 floats in a register, 12 queries in a tile. 25 queries are 7 registers, that is
// tiles of 12, 8 and 8 lanes; 300 keys are 3 tiles.
TEST(Explain, ByHand) {
    const support::WithIsa baseline(Isa::baseline);
    const AttentionExplanation full = explain<float>(lengths(25, 300, 2));
    EXPECT_EQ(full.path, AttentionPath::fused);
    EXPECT_EQ(full.lanes, 4);
    EXPECT_EQ(full.query_tile, 12);
    EXPECT_EQ(full.key_tile, 128);
    EXPECT_EQ(full.compute_type, "float");
    EXPECT_EQ(full.tiles, (TileCounts{.all = 18, .empty = 0, .full = 18, .partial = 0}));
    EXPECT_EQ(full.visible_pairs, 2 * 25 * 300);
    EXPECT_EQ(full.computed_pairs, 2 * 28 * 300);
    EXPECT_EQ(full.visible_flops, 2.0 * (64 + 32) * 2 * 25 * 300);
    EXPECT_EQ(full.computed_flops, 2.0 * (64 + 32) * 2 * 28 * 300);

    // Query i sees keys 0 to 120 + i. The first key tile is partial for the queries from 0 on and
    // full for those from 12 and from 20 on; the second is partial for all; nobody reaches key 256.
    const AttentionExplanation causal = explain<float>(lengths(25, 300), Causal::offset(120));
    EXPECT_EQ(causal.tiles, (TileCounts{.all = 9, .empty = 3, .full = 2, .partial = 4}));
}

TEST(Explain, CausalHasAboutHalfTheTiles) {
    const AttentionShape s = lengths(1024, 1024, 12);
    const AttentionExplanation full = explain<float>(s), causal = explain<float>(s, Causal{});
    EXPECT_EQ(full.tiles.empty, 0);
    EXPECT_EQ(full.tiles.partial, 0);
    EXPECT_EQ(causal.tiles.all, full.tiles.all);
    // Half of 8 key tiles and the one that the diagonal runs through, or two where it changes.
    const auto computed = static_cast<double>(causal.tiles.full + causal.tiles.partial);
    EXPECT_GT(computed, 0.5 * static_cast<double>(full.tiles.all));
    EXPECT_LT(computed, 0.6 * static_cast<double>(full.tiles.all));
    EXPECT_EQ(causal.visible_pairs, 12 * 1024 * 1025 / 2);
    // The corners behind the edge cost at most a register of lanes to a query.
    EXPECT_LE(causal.computed_pairs,
              causal.visible_pairs + Index{12} * 1024 * (causal.lanes - 1) / 2 + 12 * 1024);
}

TEST(Explain, AWindowHasTheSameTilesForEachQueryAtEveryLength) {
    const SlidingWindow window{.left = 255, .right = 0};
    const auto inner = [&](Index length) {
        // What the queries beyond the first 1024 add: the beginning has shorter windows.
        const AttentionExplanation all = explain<float>(lengths(length, length), window),
                                   head = explain<float>(lengths(1024, 1024), window);
        const auto per_query = [&](Index a, Index b) {
            return static_cast<double>(a - b) / static_cast<double>(length - 1024);
        };
        return std::pair(
            per_query(all.tiles.full + all.tiles.partial, head.tiles.full + head.tiles.partial),
            per_query(all.computed_pairs, head.computed_pairs));
    };
    const auto [short_tiles, short_pairs] = inner(2048);
    const auto [long_tiles, long_pairs] = inner(32768);
    EXPECT_NEAR(short_tiles, long_tiles, 0.03 * long_tiles);
    EXPECT_NEAR(short_pairs, long_pairs, 0.03 * long_pairs);
    // 256 visible keys, and corners on both sides.
    EXPECT_GE(long_pairs, 256.0);
    EXPECT_LE(long_pairs, 256.0 + 2 * 16);
}

TEST(Explain, FlagsThatHideATileMakeItEmpty) {
    const AttentionShape s = lengths(300, 512);
    Tensor<bool, 2> flags({300, 512});
    heed::fill(flags.view(), true);
    const AttentionExplanation all = explain<float>(s, heed::AttendWhere{flags});
    EXPECT_EQ(all.tiles.full, all.tiles.all);
    heed::fill(flags.view().slice(1, 128, 128), false);
    const AttentionExplanation hidden = explain<float>(s, heed::AttendWhere{flags});
    EXPECT_EQ(hidden.tiles.empty, hidden.tiles.all / 4);
    EXPECT_EQ(hidden.tiles.full, 3 * (hidden.tiles.all / 4));
    EXPECT_EQ(hidden.visible_pairs, 300 * 384);
    flags(0, 0) = false;
    const AttentionExplanation edited = explain<float>(s, heed::AttendWhere{flags});
    EXPECT_EQ(edited.tiles.partial, 1);
    EXPECT_EQ(edited.visible_pairs, 300 * 384 - 1);
    const AttentionExplanation blocked = explain<float>(s, heed::BlockWhere{flags});
    EXPECT_EQ(blocked.tiles.empty, blocked.tiles.all - hidden.tiles.empty - 1);
}

TEST(Explain, NamesTheTextbookPathWhereWeightsOrScoresAreAskedFor) {
    support::Random random;
    const AttentionShape s = lengths(30, 70, 2);
    const Inputs<float> in(random, s);
    Tensor<float, 4> weights({1, 2, 30, 70}), scores({1, 2, 30, 70});
    const Causal mask = Causal::offset(40);
    EXPECT_EQ(explain(in.q, in.k, in.v, mask).path, AttentionPath::fused);
    const auto rich = explain(in.q, in.k, in.v, mask, {.weights = weights});
    EXPECT_EQ(rich.path, AttentionPath::textbook);
    EXPECT_EQ(rich.reason, "weights are asked for");
    EXPECT_EQ(rich.workers, 1);
    EXPECT_EQ(rich.tiles, TileCounts{});
    EXPECT_EQ(rich.computed_pairs, 2 * 30 * 70);
    EXPECT_EQ(rich.k, RowAccess::copied);
    EXPECT_EQ(rich.visible_pairs, explain(in.q, in.k, in.v, mask).visible_pairs);
    EXPECT_EQ(rich.computed_flops,
              2.0 * 64 * 2 * 30 * 70 + 2.0 * 32 * static_cast<double>(rich.visible_pairs));
    EXPECT_EQ(explain(in.q, in.k, in.v, mask, {.scores = scores}).reason, "scores are asked for");
    EXPECT_EQ(explain(in.q, in.k, in.v, mask, {.weights = weights, .scores = scores}).reason,
              "weights and scores are asked for");
    EXPECT_THAT(to_string(rich), HasSubstr("textbook, because weights are asked for"));
    // Nothing was computed.
    for (const float x : weights.values()) EXPECT_EQ(x, 0.0f);
}

TEST(Explain, NamesTheInstructionSetInForce) {
    for (Isa isa : support::isas()) {
        const support::WithIsa forced(isa);
        const AttentionExplanation e = explain<float>(lengths(9, 9));
        EXPECT_EQ(e.isa, isa);
        EXPECT_THAT(to_string(e), HasSubstr(std::string(isa_name(isa)) + ", "));
        EXPECT_EQ(explain<double>(lengths(9, 9)).lanes, e.lanes / 2);
    }
    const char* chosen = std::getenv("HEED_ISA");
    if (chosen == nullptr || *chosen == '\0') return;
    EXPECT_EQ(isa_name(explain<float>(lengths(9, 9)).isa), chosen);
}

TEST(Explain, TellsHowRowsAreRead) {
    support::Random random;
    const AttentionShape s = lengths(9, 20);
    const Inputs<float> in(random, s);
    const auto dense = explain(in.q, in.k, in.v);
    EXPECT_EQ(dense.q, RowAccess::in_place);
    EXPECT_EQ(dense.k, RowAccess::in_place);
    EXPECT_EQ(dense.v, RowAccess::in_place);
    const Tensor<float, 4> by_feature({1, 1, 64, 20});
    const auto turned = explain(in.q, by_feature.view().transpose(2, 3), in.v);
    EXPECT_EQ(turned.k, RowAccess::gathered);
    EXPECT_EQ(turned.v, RowAccess::in_place);
    const Inputs<heed::bfloat16> narrow(random, s);
    const auto widened = explain(in.q, in.k, narrow.v);
    EXPECT_EQ(widened.k, RowAccess::in_place);
    EXPECT_EQ(widened.v, RowAccess::widened);
    EXPECT_EQ(widened.compute_type, "float");
    EXPECT_EQ(explain<heed::half>(s).q, RowAccess::widened);
    EXPECT_EQ(explain<double>(s).q, RowAccess::in_place);
    EXPECT_EQ(explain<double>(s).compute_type, "double");
}

TEST(Explain, CountsWorkersAndTheirScratch) {
    heed::ThreadPool pool(3);
    const AttentionShape large = lengths(1024, 1024, 8), small = lengths(8, 8);
    const auto with = [&](const AttentionShape& s, heed::ExecutorRef executor) {
        return explain<float>(s, NoMask{}, {.executor = executor});
    };
    EXPECT_EQ(with(large, heed::serial).workers, 1);
    EXPECT_EQ(with(large, pool).workers, 3);
    EXPECT_EQ(with(small, pool).workers, 1);
    // One query against many keys is one piece of work.
    EXPECT_EQ(with(lengths(1, 1 << 20), pool).workers, 1);
    EXPECT_EQ(with(large, pool).scratch_bytes,
              heed::attention_workspace_bytes<float>(large, false, 3));
    EXPECT_LE(3 * with(large, pool).scratch_bytes_per_worker, with(large, pool).scratch_bytes);
    EXPECT_EQ(with(large, pool).scratch_bytes_per_worker,
              with(lengths(1 << 16, 1 << 10), pool).scratch_bytes_per_worker);
}

TEST(Explain, AgreesForTensorsAndForTheirSizes) {
    attend::for_random_cases(50, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const attend::RandomMasks masks(random, s);
        EXPECT_EQ(to_string(explain(in.q, in.k, in.v, masks.masks())),
                  to_string(explain<float>(s, masks.masks())));
    });
}

TEST(Explain, CountsTheVisiblePairs) {
    attend::for_random_cases(200, [](support::Random& random, const AttentionShape& s) {
        attend::RandomMasks masks(random, s);
        for (float& x : masks.bias.values())
            if (x == -attend::infinity) x = 0;  // told by scores, not by masks
        const auto mask = masks.masks_and_cap();
        Index visible = 0;
        for (Index b = 0; b < s.batch; ++b)
            for (Index h = 0; h < s.heads; ++h)
                for (Index q = 0; q < s.q_len; ++q)
                    for (Index k = 0; k < s.kv_len; ++k) visible += masks.visible(b, h, q, k);
        const AttentionExplanation e = explain<float>(s, mask);
        EXPECT_EQ(e.visible_pairs, visible);
        EXPECT_GE(e.computed_pairs, visible);
        EXPECT_EQ(e.tiles.empty + e.tiles.full + e.tiles.partial, e.tiles.all);
    });
}

/// The kernels in force, counting what they are asked for.
struct CountedKernels {
    using Table = heed::detail::TileKernels<float>;
    static inline Index pairs = 0, product_of_values = 0, tiles = 0;

    static Table table() {
        pairs = product_of_values = tiles = 0;
        Table counted = heed::detail::tile_kernels<float>();
        count<0>(counted);
        count<1>(counted);
        count<2>(counted);
        return counted;
    }

  private:
    static const Table& real() { return heed::detail::tile_kernels<float>(); }

    template <int w>
    static void count(Table& table) {
        table.scores[w] = [](const float* k, Index stride, Index keys, Index head_dim,
                             const float* queries, float* scores, Index row, float* tile_max,
                             heed::detail::LinesAhead& ahead) {
            pairs += keys * (w + 1) * real().lanes;
            real().scores[w](k, stride, keys, head_dim, queries, scores, row, tile_max, ahead);
        };
        table.values[w] = [](const float* v, Index stride, Index keys, Index value_dim,
                             const float* weights, float* out, Index row,
                             heed::detail::LinesAhead& ahead) {
            product_of_values += keys * (w + 1) * real().lanes;
            real().values[w](v, stride, keys, value_dim, weights, out, row, ahead);
        };
        table.exponentiate[w] = [](float* scores, Index keys, const float* max, float* sum) {
            ++tiles;
            real().exponentiate[w](scores, keys, max, sum);
        };
    }
};

TEST(Explain, CountsWhatTheKernelsAreAskedFor) {
    for (const Isa isa : support::isas()) {
        const support::WithIsa forced(isa);
        attend::for_random_cases(150, [](support::Random& random, AttentionShape s) {
            if (random.chance(0.3)) s.kv_len = random.integer(100, 400);
            const Inputs<float> in(random, s);
            const attend::RandomMasks masks(random, s, 0.3);
            const auto mask = masks.masks();
            Tensor<float, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
            const auto plan =
                heed::detail::make_plan(heed::read(in.q), heed::read(in.k), heed::read(in.v),
                                        out.view(), mask, heed::AttentionOptions<float>{});
            const auto kernels = CountedKernels::table();
            std::vector<float> memory(heed::detail::FusedScratch<float>::element_count(s).bytes());
            const heed::detail::FusedScratch<float> scratch(s, memory.data());
            const heed::detail::QueryTiling tiling(s.q_len, plan.rules.documents(), kernels.lanes);
            const int workers = static_cast<int>(random.integer(1, 2));
            const heed::detail::GroupAttention<decltype(plan), float> groups(plan, kernels, tiling,
                                                                             workers);
            const heed::detail::Schedule items(plan, tiling, kernels.lanes, workers);
            for (Index i = 0; i < items.count(); ++i)
                groups.attend(items[i], items.later(i, workers), scratch);
            const AttentionExplanation e = explain(in.q, in.k, in.v, mask);
            EXPECT_EQ(e.computed_pairs, CountedKernels::pairs);
            EXPECT_EQ(e.computed_pairs, CountedKernels::product_of_values);
            EXPECT_EQ(e.tiles.full + e.tiles.partial, CountedKernels::tiles);
        });
    }
}

template <class Error, class Call>
std::string refusal(const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "nothing was refused";
}

/// The call and its explanation refuse the same, in the same words.
template <class Error, class... Arguments>
void expect_refused_alike(const AttentionShape& s, const Inputs<float>& in,
                          const std::string& words, const Arguments&... arguments) {
    Tensor<float, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
    const std::string expected = refusal<Error>(
        [&] { heed::scaled_dot_product_attention(in.q, in.k, in.v, out, arguments...); });
    EXPECT_THAT(expected, HasSubstr(words));
    EXPECT_EQ(refusal<Error>([&] { (void)explain(in.q, in.k, in.v, arguments...); }), expected);
    EXPECT_EQ(refusal<Error>([&] { (void)explain<float>(s, arguments...); }), expected);
}

TEST(Explain, RefusesWhatTheCallRefuses) {
    support::Random random;
    const AttentionShape s = lengths(4, 6, 2);
    const Inputs<float> in(random, s);
    using Options = heed::AttentionOptions<float>;
    Tensor<float, 4> small({1, 2, 4, 5});
    std::vector<std::byte> byte(1);
    expect_refused_alike<heed::ArgumentError>(s, in, "Causal", Causal{});
    expect_refused_alike<heed::ShapeError>(s, in, "weights", NoMask{}, Options{.weights = small});
    expect_refused_alike<heed::ArgumentError>(s, in, "workspace", NoMask{},
                                              Options{.workspace = byte});
    expect_refused_alike<heed::ArgumentError>(s, in, "dropout", NoMask{},
                                              Options{.dropout = {.probability = 2}});
    expect_refused_alike<heed::ArgumentError>(s, in, "scale", NoMask{}, Options{.scale = 1e300});
    expect_refused_alike<heed::ArgumentError>(
        s, in, "null",
        heed::AdditiveBias{TensorView<const float, 2>(nullptr, heed::Shape<2>(4, 6))});

    const Inputs<float> three(random, lengths(4, 6, 3));
    EXPECT_THAT(refusal<heed::ShapeError>([&] { (void)explain(in.q, three.k, three.v); }),
                HasSubstr("kv_heads must divide heads"));
    AttentionShape odd = lengths(4, 6, 4);
    odd.kv_heads = 3;
    EXPECT_THAT(
        refusal<heed::ShapeError>([&] { (void)explain<float>(odd); }),
        HasSubstr("kv_heads must divide heads, and neither may be 0; found heads 4, kv_heads 3"));
    EXPECT_THAT(refusal<heed::ArgumentError>([&] {
                    (void)explain(TensorView<const float, 4>(nullptr, in.q.shape()), in.k, in.v);
                }),
                HasSubstr("q must point at memory"));
}

TEST(Explain, IsPrinted) {
    const support::WithIsa baseline(Isa::baseline);
    const auto e =
        explain<float>(lengths(25, 300), Causal::offset(120), {.executor = heed::serial});
    std::ostringstream text;
    text << e;
    const auto kib = [](std::size_t bytes) { return std::to_string((bytes + 1023) / 1024); };
    EXPECT_EQ(text.str(),
              "path:       fused, because neither weights nor scores are asked for\n"
              "kernels:    baseline, 4 lanes of float\n"
              "tiles:      12 queries x 128 keys; 9 in all, 3 skipped, 2 full, 4 partial\n"
              "operations: 0.729 MFLOP, of which 0.638 for visible pairs\n"
              "memory:     " +
                  kib(e.scratch_bytes) + " KiB of scratch, " + kib(e.scratch_bytes_per_worker) +
                  " for each worker\n"
                  "workers:    1\n"
                  "rows read:  q in place, k in place, v in place\n");
    // Keys that are widened serve several tiles of queries at once.
    const auto half = explain<heed::half>(lengths(200, 300));
    EXPECT_GT(half.group_tiles, 1);
    EXPECT_THAT(to_string(half), HasSubstr(std::to_string(half.group_tiles) +
                                           " query tiles pass over the keys together"));
}

}  // namespace
