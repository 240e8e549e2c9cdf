#include "progress.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <sstream>

namespace char_model {

namespace {

/// "3:21", or "1:03:21" from an hour on.
std::string duration(double seconds) {
    const auto whole = static_cast<Index>(std::llround(std::max(seconds, 0.0)));
    const Index hours = whole / 3600, minutes = whole / 60 % 60;
    std::ostringstream text;
    text << std::setfill('0');
    if (hours > 0) text << hours << ':' << std::setw(2);
    text << minutes << ':' << std::setw(2) << whole % 60;
    return text.str();
}

std::string bar(Index step, Index steps) {
    constexpr Index width = 24;
    const Index full = steps > 0 ? width * step / steps : width;
    return '[' + std::string(static_cast<std::size_t>(full), '#') +
           std::string(static_cast<std::size_t>(width - full), '-') + ']';
}

}  // namespace

std::string to_string(const ProgressReport& r) {
    std::ostringstream line;
    const std::string steps = std::to_string(r.steps);
    line << "step " << std::setw(static_cast<int>(steps.size())) << r.step << '/' << steps << ' '
         << bar(r.step, r.steps) << std::fixed << std::setprecision(3) << " loss " << r.loss;
    if (r.validation_loss) line << ", held out " << *r.validation_loss;
    line << std::setprecision(0) << ", " << r.letters_per_second << " letters/s, "
         << duration(r.seconds_left) << " left";
    return line.str();
}

Progress::Progress(std::ostream& out, bool is_terminal, Index first, Index steps,
                   Index letters_per_step)
    : out_(out),
      is_terminal_(is_terminal),
      first_(first),
      steps_(steps),
      letters_per_step_(letters_per_step) {}

double Progress::seconds() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
}

bool Progress::is_time(Index step) {
    constexpr Index lines = 20;
    if (step == steps_) return true;
    if (!is_terminal_) return lines * step / steps_ != lines * (step - 1) / steps_;
    if (Clock::now() < next_draw_) return false;
    next_draw_ = Clock::now() + std::chrono::milliseconds(100);
    return true;
}

void Progress::show(Index step, double loss, std::optional<double> validation_loss) {
    if (!is_time(step)) return;
    const double per_step = seconds() / static_cast<double>(std::max<Index>(step - first_, 1));
    const std::string line = to_string(ProgressReport{
        .step = step,
        .steps = steps_,
        .loss = loss,
        .validation_loss = validation_loss,
        .letters_per_second = static_cast<double>(letters_per_step_) / std::max(per_step, 1e-9),
        .seconds_left = per_step * static_cast<double>(steps_ - step)});
    // The code clears what a longer line left behind.
    if (is_terminal_)
        out_ << '\r' << line << "\x1b[K" << std::flush;
    else
        out_ << line << std::endl;
    line_is_open_ = is_terminal_;
}

void Progress::finish() {
    if (line_is_open_) out_ << std::endl;
    line_is_open_ = false;
}

}  // namespace char_model
