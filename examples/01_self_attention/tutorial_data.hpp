#pragma once
// Which numbers does the published tutorial start from, and which does it print?
// Constants only: computes nothing, and judges nothing (tests compare with the printed figures).
//
// Source: Sebastian Raschka, "Understanding and Coding Self-Attention, Multi-Head Attention,
// Cross-Attention, and Causal-Attention in LLMs" (2024). The article prints results to four
// decimals; the inputs and weights follow from its seed 123. Printed results are to be compared at
// 1e-4. All matrices are row-major; projections are applied on the right (x W), scores are scaled
// by 1 / sqrt(head_dim), and there are no biases.

#include <array>
#include <cstddef>
#include <string_view>

namespace tutorial {

inline constexpr std::size_t length = 6;         // words of the sentence
inline constexpr std::size_t embed_dim = 3;      // of each word
inline constexpr std::size_t head_dim = 2;       // of a query and a key
inline constexpr std::size_t value_dim = 4;      // of a value of the single head
inline constexpr std::size_t num_heads = 4;      // of the multi-head example, each of value_dim 1
inline constexpr std::size_t second_length = 8;  // rows of the second sequence

inline constexpr std::array<std::string_view, length> words{"Life", "is",      "short",
                                                            "eat",  "dessert", "first"};

/// Rank of each word in the sorted vocabulary.
inline constexpr std::array<int, length> token_ids{0, 4, 5, 2, 1, 3};

/// The embedded sentence [6, 3].
inline constexpr std::array<float, length * embed_dim> embedded{
    0.337370187f,  -0.177777216f,  -0.303527594f,  //
    0.179379612f,  1.89514804f,    0.495446384f,   //
    0.269198567f,  -0.0770202354f, -1.02047193f,   //
    -0.219637617f, -0.379169822f,  0.767107069f,   //
    -0.588011861f, 0.348605186f,   0.660340965f,   //
    -1.19250202f,  0.69835192f,    -1.40972292f,   //
};

/// The second sequence, for cross-attention [8, 3].
inline constexpr std::array<float, second_length * embed_dim> second_input{
    0.274495304f,  0.658375621f, 0.277541935f,   //
    0.857324839f,  0.899328232f, 0.0390138626f,  //
    0.926822901f,  0.738757193f, 0.717883527f,   //
    0.705837429f,  0.915649533f, 0.433980227f,   //
    0.0771507621f, 0.35652554f,  0.147862673f,   //
    0.533053339f,  0.406646252f, 0.23180753f,    //
    0.454539299f,  0.973701894f, 0.460562289f,   //
    0.515875041f,  0.42201972f,  0.578603506f,   //
};

// The single head: self-, causal and cross-attention.

/// [3, 2]
inline constexpr std::array<float, embed_dim * head_dim> W_query{
    0.296111941f,  0.516562283f,  //
    0.251670718f,  0.68855679f,   //
    0.0739724636f, 0.866521955f,  //
};

/// [3, 2]
inline constexpr std::array<float, embed_dim * head_dim> W_key{
    0.136579871f, 0.102479041f,  //
    0.184056461f, 0.726446748f,  //
    0.315253913f, 0.687106669f,  //
};

/// [3, 4]
inline constexpr std::array<float, embed_dim * value_dim> W_value{
    0.075635314f, 0.196638167f, 0.316411972f, 0.401740134f,  //
    0.118568301f, 0.82739538f,  0.382084429f, 0.660493851f,  //
    0.853571773f, 0.593153f,    0.636725366f, 0.982629359f,  //
};

/// One of the four heads of the multi-head example: W_query and W_key [3, 2], W_value [3, 1].
struct Head {
    std::array<float, embed_dim * head_dim> W_query;
    std::array<float, embed_dim * head_dim> W_key;
    std::array<float, embed_dim> W_value;
};

inline constexpr std::array<Head, num_heads> heads{{
    {
        {{0.296111941f, 0.516562283f, 0.251670718f, 0.68855679f, 0.0739724636f, 0.866521955f}},
        {{0.136579871f, 0.102479041f, 0.184056461f, 0.726446748f, 0.315253913f, 0.687106669f}},
        {{0.075635314f, 0.196638167f, 0.316411972f}},
    },
    {
        {{0.401740134f, 0.118568301f, 0.82739538f, 0.382084429f, 0.660493851f, 0.853571773f}},
        {{0.593153f, 0.636725366f, 0.982629359f, 0.274495304f, 0.658375621f, 0.277541935f}},
        {{0.857324839f, 0.899328232f, 0.0390138626f}},
    },
    {
        {{0.926822901f, 0.738757193f, 0.717883527f, 0.705837429f, 0.915649533f, 0.433980227f}},
        {{0.0771507621f, 0.35652554f, 0.147862673f, 0.533053339f, 0.406646252f, 0.23180753f}},
        {{0.454539299f, 0.973701894f, 0.460562289f}},
    },
    {
        {{0.515875041f, 0.42201972f, 0.578603506f, 0.945506334f, 0.805746436f, 0.677480757f}},
        {{0.608655274f, 0.617896438f, 0.693166614f, 0.435388267f, 0.0352956057f, 0.190794051f}},
        {{0.92679286f, 0.529886723f, 0.0949632525f}},
    },
}};

// What the article prints.

/// q k^T of the second word, not yet scaled [6].
inline constexpr std::array<float, length> published_scores{
    -0.6004f, 3.4707f, -1.5023f, 0.4991f, 1.2903f, -1.3374f,  //
};

/// Attention weights of the second word [6].
inline constexpr std::array<float, length> published_weights{
    0.0386f, 0.687f, 0.0204f, 0.084f, 0.147f, 0.0229f,  //
};

/// Self-attention [6, 4].
inline constexpr std::array<float, length * value_dim> published_self{
    -0.1564f, 0.1028f,  -0.0763f, -0.0764f,  //
    0.5313f,  1.3607f,  0.7891f,  1.311f,    //
    -0.3542f, -0.1234f, -0.2627f, -0.3706f,  //
    0.0071f,  0.3345f,  0.0969f,  0.1998f,   //
    0.1008f,  0.478f,   0.2021f,  0.3674f,   //
    -0.5296f, -0.2799f, -0.4107f, -0.6006f,  //
};

/// Causal attention weights [6, 6].
inline constexpr std::array<float, length * length> published_causal_weights{
    1.0f,    0.0f,    0.0f,    0.0f,    0.0f,    0.0f,     //
    0.0532f, 0.9468f, 0.0f,    0.0f,    0.0f,    0.0f,     //
    0.3862f, 0.1214f, 0.4924f, 0.0f,    0.0f,    0.0f,     //
    0.2232f, 0.3242f, 0.2078f, 0.2449f, 0.0f,    0.0f,     //
    0.1536f, 0.3145f, 0.1325f, 0.1849f, 0.2145f, 0.0f,     //
    0.1973f, 0.0247f, 0.3102f, 0.1132f, 0.0751f, 0.2794f,  //
};

/// The four heads side by side [6, 4].
inline constexpr std::array<float, length * num_heads> published_heads{
    -0.0185f, 0.017f,   0.1999f,  -0.086f,   //
    0.4003f,  1.7137f,  1.3981f,  1.0497f,   //
    -0.1103f, -0.1609f, 0.0079f,  -0.2416f,  //
    0.0668f,  0.3534f,  0.2322f,  0.1008f,   //
    0.118f,   0.6949f,  0.3157f,  0.2807f,   //
    -0.1827f, -0.206f,  -0.2393f, -0.3167f,  //
};

/// Cross-attention: queries from `embedded`, keys and values from `second_input` [6, 4].
inline constexpr std::array<float, length * value_dim> published_cross{
    0.4231f, 0.8665f, 0.6503f, 1.0042f,  //
    0.4874f, 0.9718f, 0.7359f, 1.1353f,  //
    0.4054f, 0.8359f, 0.6258f, 0.9667f,  //
    0.4357f, 0.8886f, 0.6678f, 1.0311f,  //
    0.4429f, 0.9006f, 0.6775f, 1.046f,   //
    0.386f,  0.8021f, 0.5985f, 0.925f,   //
};

}  // namespace tutorial
