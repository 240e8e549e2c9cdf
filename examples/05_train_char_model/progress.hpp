#pragma once
// How far is it, and how long will it take?
// Writes one line on a terminal again and again, and a line now and then elsewhere.

#include <chrono>
#include <optional>
#include <ostream>
#include <string>

#include "common/progress_line.hpp"
#include "heed/base/checked_size.hpp"

namespace char_model {

using heed::Index;

/// What a line tells.
struct ProgressReport {
    Index step = 0;  ///< steps made, of
    Index steps = 0;
    double loss = 0.0;  ///< nats per letter
    std::optional<double> validation_loss = {};
    double letters_per_second = 0.0;
    double seconds_left = 0.0;
};

/// "step  120/2000 [##------] loss 1.823, held out 1.901, 12300 letters/s, 3:21 left"
[[nodiscard]] std::string to_string(const ProgressReport& report);

/// Measures the time since it was made.
class Progress {
  public:
    /// Steps before `first` were made before. On a terminal a line replaces the one before it.
    Progress(std::ostream& out, bool is_terminal, Index first, Index steps, Index letters_per_step);

    /// After a step. Draws at most ten times a second on a terminal, else at each twentieth of the
    /// way, and at the last step.
    void show(Index step, double loss, std::optional<double> validation_loss);

    /// Ends the line on a terminal.
    void finish() { line_.finish(); }

    [[nodiscard]] double seconds() const;

  private:
    using Clock = std::chrono::steady_clock;

    [[nodiscard]] bool is_time(Index step);

    std::ostream& out_;
    examples::ProgressLine line_;
    bool is_terminal_;
    Index first_, steps_, letters_per_step_;
    Clock::time_point begin_ = Clock::now();
};

}  // namespace char_model
