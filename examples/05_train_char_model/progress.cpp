#include "progress.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace char_model {

std::string to_string(const ProgressReport& r) {
    std::ostringstream line;
    const std::string steps = std::to_string(r.steps);
    line << "step " << std::setw(static_cast<int>(steps.size())) << r.step << '/' << steps << ' '
         << examples::progress_bar(r.step, r.steps) << std::fixed << std::setprecision(3)
         << " loss " << r.loss;
    if (r.validation_loss) line << ", held out " << *r.validation_loss;
    line << std::setprecision(0) << ", " << r.letters_per_second << " letters/s, "
         << examples::duration_text(r.seconds_left) << " left";
    return line.str();
}

Progress::Progress(std::ostream& out, bool is_terminal, Index first, Index steps,
                   Index letters_per_step)
    : out_(out),
      line_(out),
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
    return line_.is_time();
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
    if (is_terminal_)
        line_.draw(line);
    else
        out_ << line << std::endl;
}

}  // namespace char_model
