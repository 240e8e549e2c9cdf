#pragma once
// How far is the encoder, and how long will it take?
// Writes one line on a terminal again and again, and nothing elsewhere.

#include <chrono>
#include <ostream>
#include <string>

#include "common/progress_line.hpp"
#include "sentence_encoder.hpp"

namespace sentence_similarity {

/// "12000/31102 [#########---------------] 5757 tokens/s, 0:42 left"
[[nodiscard]] std::string to_string(const EncodingProgress& progress, double seconds);

/// Measures the time since it was made.
class Progress {
  public:
    Progress(std::ostream& out, bool is_terminal) : line_(out), is_terminal_(is_terminal) {}

    /// After a batch. Draws at most ten times a second.
    void show(const EncodingProgress& progress);

    /// Removes the line.
    void erase() { line_.erase(); }

    [[nodiscard]] double seconds() const;

  private:
    using Clock = std::chrono::steady_clock;

    examples::ProgressLine line_;
    bool is_terminal_;
    Clock::time_point begin_ = Clock::now();
};

}  // namespace sentence_similarity
