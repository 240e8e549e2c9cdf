#pragma once
// How large is the next step of training?
// Pure functions of the step's number; hold no state.

#include <cmath>
#include <cstdint>
#include <numbers>

#include "heed/base/contract.hpp"

namespace heed::inline v0 {

/// A learning rate that rises linearly and falls along half a cosine. Steps are counted from 0:
///
///     peak (step + 1) / (warmup_steps + 1)                               before warmup_steps,
///     floor + (peak - floor) (1 + cos(pi (step - warmup_steps) / (total_steps - warmup_steps))) /
///     2
///                                                                        up to total_steps,
///     floor                                                              from there on.
///
/// Source: Loshchilov, Hutter, arXiv 1608.03983 (the cosine); Vaswani et al., arXiv 1706.03762 (the
/// linear warmup).
struct WarmupCosine {
    double peak = 1e-3;
    double floor = 0.0;
    std::int64_t warmup_steps = 0;
    std::int64_t total_steps = 0;

    /// Throws ArgumentError for a negative step, or unless 0 <= floor <= peak and
    /// 0 <= warmup_steps <= total_steps, all finite.
    [[nodiscard]] double operator()(std::int64_t step) const {
        check(step);
        if (step < warmup_steps)
            return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps + 1);
        if (step >= total_steps) return floor;
        const double progress = static_cast<double>(step - warmup_steps) /
                                static_cast<double>(total_steps - warmup_steps);
        return floor + (peak - floor) * (1.0 + std::cos(std::numbers::pi * progress)) / 2.0;
    }

  private:
    void check(std::int64_t step) const {
        constexpr std::string_view where = "WarmupCosine";
        detail::require_nonnegative(where, "peak", peak);
        if (!(floor >= 0.0 && floor <= peak))
            detail::fail<ArgumentError>(where, "floor must be in [0, peak]; found floor ", floor,
                                        ", peak ", peak);
        if (warmup_steps < 0 || warmup_steps > total_steps)
            detail::fail<ArgumentError>(where, "warmup_steps must be in [0, total_steps]; found ",
                                        "warmup_steps ", warmup_steps, ", total_steps ",
                                        total_steps);
        if (step < 0) detail::fail<ArgumentError>(where, "step must be 0 or more; found ", step);
    }
};

}  // namespace heed::inline v0
