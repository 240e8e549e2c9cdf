#include "progress.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace sentence_similarity {

std::string to_string(const EncodingProgress& progress, double seconds) {
    const auto done = static_cast<double>(progress.tokens);
    const auto left = static_cast<double>(progress.all_tokens - progress.tokens);
    std::ostringstream line;
    line << progress.texts << '/' << progress.all_texts << ' '
         << examples::progress_bar(progress.tokens, progress.all_tokens) << ' ' << std::fixed
         << std::setprecision(0) << done / std::max(seconds, 1e-9) << " tokens/s, "
         << examples::duration_text(seconds * left / std::max(done, 1.0)) << " left";
    return line.str();
}

void Progress::show(const EncodingProgress& progress) {
    if (is_terminal_ && line_.is_time()) line_.draw(to_string(progress, seconds()));
}

double Progress::seconds() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
}

}  // namespace sentence_similarity
