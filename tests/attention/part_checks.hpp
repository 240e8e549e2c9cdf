#pragma once
// What must hold for every mask and score modification, whichever it is? Any thread count gives the
// same bits, a call with a workspace allocates nothing, a refused one writes nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "heed/base/thread_pool.hpp"
#include "support/allocation_counter.hpp"

namespace attend {

/// Bits of the fused path's outputs are the same for 1 to 5 threads. The sizes must be worth it.
template <class T, heed::ScorePart Mask>
void expect_same_bits_for_all_threads(const Inputs<T>& in, const Mask& mask) {
    const auto run = [&](heed::ExecutorRef executor) {
        Tensor<T, 4> out(in.q.shape().with(3, in.v.extent(3)));
        Tensor<heed::ComputeType<T>, 3> lse({in.q.extent(0), in.q.extent(1), in.q.extent(2)});
        heed::scaled_dot_product_attention(in.q, in.k, in.v, out, mask,
                                           {.lse = lse, .executor = executor});
        return std::pair(std::move(out), std::move(lse));
    };
    const auto [out, lse] = run(heed::serial);
    for (int threads = 2; threads <= 5; ++threads) {
        heed::ThreadPool pool(threads);
        const auto [other_out, other_lse] = run(pool);
        EXPECT_TRUE(same_bits(out, other_out)) << threads << " threads";
        EXPECT_TRUE(same_bits(lse, other_lse)) << threads << " threads";
    }
}

/// The mask is made anew in the counted call, as a caller would do it.
template <class T, class MakeMask>
void expect_no_allocation(const Inputs<T>& in, const MakeMask& make_mask) {
    const heed::AttentionShape s =
        heed::detail::attention_shape(heed::read(in.q), heed::read(in.k), heed::read(in.v));
    std::vector<std::byte> workspace(heed::attention_workspace_bytes<T>(s, true));
    Tensor<T, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
    Tensor<T, 4> weights({s.batch, s.heads, s.q_len, s.kv_len});
    const support::AllocationCounter counter;
    heed::scaled_dot_product_attention(in.q, in.k, in.v, out, make_mask(),
                                       {.workspace = workspace});
    heed::scaled_dot_product_attention(in.q, in.k, in.v, out, make_mask(),
                                       {.weights = weights, .workspace = workspace});
    EXPECT_EQ(counter.count(), 0u);
}

/// On both paths, alone and composed, the call throws `Kind` with these words and writes nothing.
template <class Kind, heed::ScorePart Mask>
void expect_refused(const heed::AttentionShape& s, const Mask& mask, const std::string& where,
                    const std::vector<std::string>& words) {
    support::Random random;
    const Inputs<float> in(random, s);
    Tensor<float, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
    Tensor<float, 4> weights({s.batch, s.heads, s.q_len, s.kv_len});
    const auto expect = [&](const auto& part, heed::AttentionOptions<float> options) {
        heed::fill(out.view(), not_a_number);
        heed::fill(weights.view(), not_a_number);
        try {
            heed::scaled_dot_product_attention(in.q, in.k, in.v, out, part, options);
            ADD_FAILURE() << "accepted; expected [" << where << "] " << words.front();
        } catch (const Kind& error) {
            EXPECT_THAT(error.what(), testing::StartsWith("[" + where + "] "));
            for (const std::string& word : words)
                EXPECT_THAT(error.what(), testing::HasSubstr(word));
        }
        for (const auto* output : {&out, &weights})
            for (const float x : output->values()) EXPECT_TRUE(std::isnan(x)) << "written";
    };
    expect(mask, {});
    expect(mask, {.weights = weights});
    expect(heed::SoftCap{1} & mask, {});
}

}  // namespace attend
