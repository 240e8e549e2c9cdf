#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "heed/tensor/philox.hpp"

namespace char_model {

Index sample_letter(std::span<const float> logits, double temperature, double u) {
    const auto likeliest = std::max_element(logits.begin(), logits.end());
    if (temperature == 0.0) return likeliest - logits.begin();
    std::vector<double> sums;  // running sums of the unnormalised probabilities
    double sum = 0.0;
    for (float logit : logits)
        sums.push_back(sum += std::exp((double{logit} - *likeliest) / temperature));
    const auto drawn = std::upper_bound(sums.begin(), sums.end() - 1, u * sum);
    return drawn - sums.begin();
}

void sample_text(std::ostream& out, CharModel<float>& model, const Alphabet& alphabet,
                 std::string_view prompt, Index count, double temperature, std::uint64_t seed) {
    if (!(temperature >= 0.0 && std::isfinite(temperature)))
        throw heed::ArgumentError("[sample_text] the temperature must be finite and 0 or more; " +
                                  std::string("found ") + std::to_string(temperature));
    std::vector<int> ids;
    for (char letter : prompt) ids.push_back(alphabet.id(letter));
    if (ids.empty()) ids.push_back(0);
    model.eval();
    for (Index i = 0; i < count; ++i) {
        const Index seen = std::min(std::ssize(ids), model.options().context);
        const auto logits =
            model.forward(std::span<const int>(ids).last(static_cast<std::size_t>(seen)), seen);
        const auto last = logits.select(0, seen - 1);
        const heed::PhiloxCounter bits =
            heed::philox({static_cast<std::uint32_t>(i), 0, 0, 1}, heed::philox_key(seed));
        const Index id = sample_letter({last.data(), static_cast<std::size_t>(last.extent(0))},
                                       temperature, bits[0] * 0x1p-32);
        ids.push_back(static_cast<int>(id));
        out << alphabet.letter(id) << std::flush;
    }
}

}  // namespace char_model
