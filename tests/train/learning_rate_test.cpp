// The learning rate by step: figures of PyTorch, the ends, the joint, refusals.

#include "heed/train/learning_rate.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "nn/nn_support.hpp"

namespace {

using heed::WarmupCosine;
using nn_test::expect_refused;

// torch.optim.lr_scheduler.CosineAnnealingLR of PyTorch 2.13: base 0.3, T_max 7, eta_min 0.02.
TEST(WarmupCosine, WithoutWarmupIsThatOfPyTorch) {
    const double expected[] = {0.3,
                               0.28613564150633863,
                               0.24728857226022263,
                               0.19115293075388395,
                               0.12884706924611597,
                               0.0727114277397773,
                               0.03386435849366133,
                               0.02};
    const WarmupCosine rate{.peak = 0.3, .floor = 0.02, .total_steps = 7};
    const WarmupCosine later{.peak = 0.3, .floor = 0.02, .warmup_steps = 5, .total_steps = 12};
    for (int step = 0; step < 8; ++step) {
        EXPECT_NEAR(rate(step), expected[step], 2e-16) << step;
        EXPECT_NEAR(later(step + 5), expected[step], 2e-16) << step;
    }
    EXPECT_EQ(rate(8), 0.02);
    EXPECT_EQ(rate(std::numeric_limits<std::int64_t>::max()), 0.02);
}

TEST(WarmupCosine, RisesInEqualStepsToThePeak) {
    const WarmupCosine rate{.peak = 1.0, .floor = 0.5, .warmup_steps = 4, .total_steps = 10};
    for (int step = 0; step < 4; ++step) EXPECT_NEAR(rate(step), 0.2 * (step + 1), 1e-15) << step;
    EXPECT_EQ(rate(4), 1.0);
    for (int step = 5; step < 12; ++step) {
        EXPECT_LE(rate(step), rate(step - 1));
        EXPECT_GE(rate(step), 0.5);
    }
    EXPECT_EQ(rate(7), 0.75);  // half of the way
    EXPECT_EQ(rate(10), 0.5);
    // Nothing but warmup.
    const WarmupCosine warmup{.peak = 1.0, .warmup_steps = 3, .total_steps = 3};
    EXPECT_EQ(warmup(2), 0.75);
    EXPECT_EQ(warmup(3), 0.0);
    EXPECT_EQ(WarmupCosine{}(0), 0.0);
}

TEST(WarmupCosine, RefusesWhatIsOutOfRange) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto refused = [](const WarmupCosine& rate, std::int64_t step, std::string_view text) {
        expect_refused<heed::ArgumentError>([&] { (void)rate(step); }, {"[WarmupCosine]", text});
    };
    refused({.peak = -1.0, .total_steps = 5}, 0, "peak must be finite and 0 or more; found -1");
    refused({.peak = nan, .total_steps = 5}, 0, "peak must be finite and 0 or more");
    refused({.peak = 1.0, .floor = 2.0, .total_steps = 5}, 0,
            "floor must be in [0, peak]; found floor 2, peak 1");
    refused({.peak = 1.0, .floor = nan, .total_steps = 5}, 0, "floor must be in [0, peak]");
    refused({.warmup_steps = 6, .total_steps = 5}, 0,
            "warmup_steps must be in [0, total_steps]; found warmup_steps 6, total_steps 5");
    refused({.warmup_steps = -1, .total_steps = 5}, 0, "found warmup_steps -1");
    refused({.total_steps = 5}, -1, "step must be 0 or more; found -1");
}

}  // namespace
