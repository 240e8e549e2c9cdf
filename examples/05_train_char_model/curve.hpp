#pragma once
// How did the loss go?
// Numbers of the past steps; knows neither models nor files.

#include <algorithm>
#include <cstddef>
#include <vector>

#include "heed/base/checked_size.hpp"

namespace char_model {

using heed::Index;

/// Losses in nats per letter.
struct Curve {
    struct Validation {
        Index step;  ///< steps that had been made
        double loss;
    };

    std::vector<double> training;  ///< of each step's batch, before the step
    std::vector<Validation> validation;

    /// The mean training loss of the last 100 steps up to this one, or of the last half of fewer;
    /// one batch alone says little. 0 before the first step.
    [[nodiscard]] double smoothed(Index step) const {
        constexpr Index window = 100;
        const Index begin = std::max(step - window, step / 2);
        double sum = 0.0;
        for (Index i = begin; i < step; ++i) sum += training[static_cast<std::size_t>(i)];
        return step > begin ? sum / static_cast<double>(step - begin) : 0.0;
    }
};

}  // namespace char_model
