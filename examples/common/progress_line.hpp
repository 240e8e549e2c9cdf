#pragma once
// How does one line of a terminal tell how far something is?
// Writes the line again and again to the stream it is given; knows nothing of what it tells.

#include <chrono>
#include <ostream>
#include <string>
#include <string_view>

#include "heed/base/checked_size.hpp"

namespace examples {

using heed::Index;

/// "[######------------------]"
[[nodiscard]] std::string progress_bar(Index done, Index all);

/// "3:21", or "1:03:21" from an hour on.
[[nodiscard]] std::string duration_text(double seconds);

/// A line that each drawing replaces.
class ProgressLine {
  public:
    explicit ProgressLine(std::ostream& out) : out_(out) {}

    /// True at most ten times a second.
    [[nodiscard]] bool is_time();

    void draw(std::string_view line);

    /// Ends the line, if one was drawn.
    void finish();

    /// Removes the line, if one was drawn.
    void erase();

  private:
    using Clock = std::chrono::steady_clock;

    std::ostream& out_;
    Clock::time_point next_draw_ = Clock::now();
    bool is_open_ = false;
};

}  // namespace examples
