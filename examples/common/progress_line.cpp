#include "common/progress_line.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

namespace examples {

std::string progress_bar(Index done, Index all) {
    constexpr Index width = 24;
    const Index full = all > 0 ? width * done / all : width;
    return '[' + std::string(static_cast<std::size_t>(full), '#') +
           std::string(static_cast<std::size_t>(width - full), '-') + ']';
}

std::string duration_text(double seconds) {
    const auto whole = static_cast<Index>(std::llround(std::max(seconds, 0.0)));
    const Index hours = whole / 3600, minutes = whole / 60 % 60;
    std::ostringstream text;
    text << std::setfill('0');
    if (hours > 0) text << hours << ':' << std::setw(2);
    text << minutes << ':' << std::setw(2) << whole % 60;
    return text.str();
}

bool ProgressLine::is_time() {
    if (Clock::now() < next_draw_) return false;
    next_draw_ = Clock::now() + std::chrono::milliseconds(100);
    return true;
}

void ProgressLine::draw(std::string_view line) {
    // The code clears what a longer line left behind.
    out_ << '\r' << line << "\x1b[K" << std::flush;
    is_open_ = true;
}

void ProgressLine::finish() {
    if (is_open_) out_ << std::endl;
    is_open_ = false;
}

void ProgressLine::erase() {
    if (is_open_) out_ << "\r\x1b[K" << std::flush;
    is_open_ = false;
}

}  // namespace examples
