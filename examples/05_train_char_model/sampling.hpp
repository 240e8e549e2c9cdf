#pragma once
// How does a model write?
// Draws one letter after another from what the model expects, and puts them into a stream.

#include <cstdint>
#include <ostream>
#include <span>
#include <string_view>

#include "char_model.hpp"
#include "text.hpp"

namespace char_model {

/// The id that a number u in [0, 1) draws from softmax(logits / temperature); at temperature 0 the
/// likeliest, the first of several.
[[nodiscard]] Index sample_letter(std::span<const float> logits, double temperature, double u);

/// Writes `count` letters that continue the prompt; an empty prompt is the alphabet's first letter,
/// which in most texts begins a line. The same seed writes the same text. The cost of a letter is
/// a pass over all that the model sees.
/// Throws heed::ArgumentError for a letter of the prompt that is not in the alphabet, or unless the
/// temperature is 0 or more and finite; nothing is written then.
void sample_text(std::ostream& out, CharModel<float>& model, const Alphabet& alphabet,
                 std::string_view prompt, Index count, double temperature, std::uint64_t seed);

}  // namespace char_model
