#pragma once
// What does PyTorch say of the sentences that the example compares when it is given none?
// Constants only, made by tests/golden/make_sentences.py with PyTorch 2.13 in float64.

#include <array>
#include <string_view>

namespace sentence_similarity {

inline constexpr std::array<std::string_view, 6> demo_sentences{
    "The cat is sleeping on the warm roof.",
    "A kitten naps on top of the house.",
    "Share prices fell sharply on Monday.",
    "The stock market lost a lot at the start of the week.",
    "How do I bake bread without yeast?",
    "A recipe for a loaf that needs no leaven.",
};

/// Cosines of the angles between their vectors.
inline constexpr double published_similarities[6][6]{
    {1.000000000, 0.572852917, -0.034441342, -0.020125412, 0.107706620, -0.044002875},
    {0.572852917, 1.000000000, -0.014629682, 0.039297528, 0.063565440, 0.011431319},
    {-0.034441342, -0.014629682, 1.000000000, 0.567879216, 0.057214922, 0.051403310},
    {-0.020125412, 0.039297528, 0.567879216, 1.000000000, 0.054878990, 0.095777854},
    {0.107706620, 0.063565440, 0.057214922, 0.054878990, 1.000000000, 0.594341965},
    {-0.044002875, 0.011431319, 0.051403310, 0.095777854, 0.594341965, 1.000000000},
};

inline constexpr double published_tolerance = 1e-5;

}  // namespace sentence_similarity
