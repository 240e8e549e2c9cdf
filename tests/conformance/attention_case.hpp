#pragma once
// What does ONNX's operator Attention say in heed's words?
// Reads one case (inputs, attributes, expected outputs), asks heed for the outputs and compares.
// Copies and joins tensors; every number of an output comes from heed.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/attention/scaled_dot_product_attention.hpp"
#include "heed/tensor/any_tensor.hpp"

namespace conformance {

using heed::AnyTensor;
using heed::Index;
using heed::NamedTensors;
using heed::ScalarType;
using heed::Tensor;
using heed::TensorView;

[[noreturn]] inline void refuse(const std::string& problem) {
    throw heed::FormatError("[conformance] " + problem);
}

/// Attributes of the operator; absent ones have the operator's defaults.
struct Attributes {
    bool is_causal = false;
    std::optional<Index> q_num_heads = std::nullopt;
    std::optional<Index> kv_num_heads = std::nullopt;
    std::optional<double> scale = std::nullopt;
    double softcap = 0.0;
    Index qk_matmul_output_mode = 0;
    Index left_window_size = -1;
    Index right_window_size = -1;
};

template <class Number>
Number number(std::string_view name, std::string_view text) {
    Number value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        refuse("attribute " + std::string(name) + " must be a number; found '" + std::string(text) +
               "'");
    return value;
}

/// The attributes among a case's metadata. Refuses those it does not know, for they might change
/// the operator's meaning. softmax_precision asks for a least precision: heed computes half types
/// in float, and the others in themselves.
inline Attributes read_attributes(const NamedTensors::Metadata& metadata) {
    Attributes attributes;
    for (const auto& [key, text] : metadata) {
        if (!key.starts_with("attr.")) continue;
        const std::string name = key.substr(5);
        if (name == "is_causal")
            attributes.is_causal = number<int>(name, text) != 0;
        else if (name == "q_num_heads")
            attributes.q_num_heads = number<Index>(name, text);
        else if (name == "kv_num_heads")
            attributes.kv_num_heads = number<Index>(name, text);
        else if (name == "scale")
            attributes.scale = number<double>(name, text);
        else if (name == "softcap")
            attributes.softcap = number<double>(name, text);
        else if (name == "qk_matmul_output_mode")
            attributes.qk_matmul_output_mode = number<Index>(name, text);
        else if (name == "left_window_size")
            attributes.left_window_size = number<Index>(name, text);
        else if (name == "right_window_size")
            attributes.right_window_size = number<Index>(name, text);
        else if (name != "softmax_precision")
            refuse("attribute must be known; found '" + name + "'");
    }
    return attributes;
}

/// [B, H, L, D] as it is, or [B, L, H * D] with its heads split off.
template <class T>
TensorView<const T, 4> with_heads(const AnyTensor& tensor, std::string_view name,
                                  std::optional<Index> heads) {
    if (tensor.shape().size() != 3) return tensor.view<T, 4>(name);
    if (!heads) refuse(std::string(name) + " of rank 3 needs the number of its heads; found none");
    return tensor.view<T, 3>(name).split_heads(*heads);
}

/// A mask of rank 1 to 4 with leading dimensions of extent 1 up to rank 4.
template <class T>
TensorView<const T, 4> mask_of_rank_4(const AnyTensor& mask) {
    switch (mask.shape().size()) {
        case 1:
            return mask.view<T, 1>("attn_mask").unsqueeze().unsqueeze().unsqueeze();
        case 2:
            return mask.view<T, 2>("attn_mask").unsqueeze().unsqueeze();
        case 3:
            return mask.view<T, 3>("attn_mask").unsqueeze();
        default:
            return mask.view<T, 4>("attn_mask");
    }
}

/// A mask whose last dimension is at least as long as there are keys; new places hold `masked`.
template <class T, class From>
Tensor<T, 4> padded(TensorView<const From, 4> mask, Index kv_len, T masked) {
    const Index length = mask.extent(3);
    Tensor<T, 4> result(mask.shape().with(3, std::max(length, kv_len)));
    heed::fill(result.view(), masked);
    heed::copy(mask, result.view().slice(3, 0, length));
    return result;
}

/// Calls function(T()) for the floating type that the tensor holds.
template <class Function>
auto with_type_of(const AnyTensor& tensor, std::string_view name, const Function& function) {
    switch (tensor.scalar_type()) {
        case ScalarType::f16:
            return function(heed::half());
        case ScalarType::bf16:
            return function(heed::bfloat16());
        case ScalarType::f32:
            return function(float());
        case ScalarType::f64:
            return function(double());
        default:
            refuse(std::string(name) + " must be of a floating type; found " + to_string(tensor));
    }
}

/// A float mask as a bias in the compute type C; one that changes nothing where there is none.
template <class C>
Tensor<C, 4> bias_of(const AnyTensor* mask, Index kv_len) {
    if (!mask || mask->scalar_type() == ScalarType::boolean) return Tensor<C, 4>({1, 1, 1, 1});
    return with_type_of(*mask, "attn_mask", [&]<class T>(T) {
        return padded(mask_of_rank_4<T>(*mask), kv_len, -std::numeric_limits<C>::infinity());
    });
}

/// A boolean mask; one that shows everything where there is none.
inline Tensor<bool, 4> flags_of(const AnyTensor* mask, Index kv_len) {
    if (!mask || mask->scalar_type() != ScalarType::boolean)
        return Tensor<bool, 4>({1, 1, 1, 1}, {true});
    return padded(mask_of_rank_4<bool>(*mask), kv_len, false);
}

/// The cached keys or values, if there are any, followed by the new ones.
template <class T>
Tensor<T, 4> joined(const AnyTensor* past, TensorView<const T, 4> fresh) {
    if (!past) return Tensor<T, 4>(fresh);
    const TensorView<const T, 4> cached = past->view<T, 4>("past");
    const Index count = cached.extent(2);
    Tensor<T, 4> result(fresh.shape().with(2, count + fresh.extent(2)));
    heed::copy(cached, result.view().slice(2, 0, count));
    heed::copy(fresh, result.view().slice(2, count, fresh.extent(2)));
    return result;
}

/// Inputs of one case by the operator's names.
struct Inputs {
    const NamedTensors& tensors;

    const AnyTensor* find(const std::string& name) const { return tensors.find("in." + name); }
    const AnyTensor& at(const std::string& name) const { return tensors.at("in." + name); }

    void refuse_unknown() const {
        constexpr std::array<std::string_view, 7> known{
            "Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen"};
        for (const auto& [name, tensor] : tensors)
            if (name.starts_with("in.") && std::ranges::count(known, name.substr(3)) == 0)
                refuse("an input must be known; found '" + name + "'");
    }
};

/// The keys that exist, for each batch element.
inline std::vector<Index> key_lengths(const Inputs& in, Index batch, Index kv_len) {
    const AnyTensor* lengths = in.find("nonpad_kv_seqlen");
    if (!lengths) return std::vector<Index>(static_cast<std::size_t>(batch), kv_len);
    const auto view = lengths->view<std::int64_t, 1>("nonpad_kv_seqlen");
    std::vector<Index> result;
    for (Index b = 0; b < view.extent(0); ++b) result.push_back(view(b));
    return result;
}

/// Where the first query stands, for each batch element: behind the cached keys; or, with a cache
/// outside, so that the last query is at the last key that exists; or at the first key.
inline std::vector<Index> query_offsets(const Inputs& in, Index batch, Index q_len,
                                        const std::vector<Index>& lengths) {
    if (const AnyTensor* past = in.find("past_key"))
        return std::vector<Index>(static_cast<std::size_t>(batch), past->shape().at(2));
    if (!in.find("nonpad_kv_seqlen")) return std::vector<Index>(static_cast<std::size_t>(batch), 0);
    std::vector<Index> offsets;
    for (Index length : lengths) offsets.push_back(length - q_len);
    return offsets;
}

/// All outputs of the operator for Q and K of type T and V of type U, named "out.Y" and so on.
template <class T, class U>
NamedTensors outputs_of(const Inputs& in, const Attributes& a) {
    const bool heads_last = in.at("Q").shape().size() == 3;
    const auto q = with_heads<T>(in.at("Q"), "Q", a.q_num_heads);
    const auto k = joined(in.find("past_key"), with_heads<T>(in.at("K"), "K", a.kv_num_heads));
    const auto v = joined(in.find("past_value"), with_heads<U>(in.at("V"), "V", a.kv_num_heads));
    const Index batch = q.extent(0), heads = q.extent(1), q_len = q.extent(2);
    const Index kv_len = k.extent(2), value_dim = v.extent(3);

    Tensor<T, 4> y(heads_last ? heed::Shape<4>(batch, q_len, heads, value_dim)
                              : heed::Shape<4>(batch, heads, q_len, value_dim));
    const TensorView<T, 4> out = heads_last ? y.view().transpose(1, 2) : y.view();

    // One composition serves all cases: what a case does not ask for is set so as to do nothing.
    const AnyTensor* const mask = in.find("attn_mask");
    const auto flags = flags_of(mask, kv_len);
    const auto bias = bias_of<heed::ComputeType<T>>(mask, kv_len);
    const std::vector<Index> lengths = key_lengths(in, batch, kv_len);
    const std::vector<Index> offsets = query_offsets(in, batch, q_len, lengths);
    const auto rules =
        (a.is_causal ? heed::Causal::offsets(offsets) : heed::Causal::offset(kv_len)) &
        heed::SlidingWindow{.left = a.left_window_size,
                            .right = a.right_window_size,
                            .alignment = heed::Alignment::offsets(offsets)} &
        heed::KeyLengths{lengths} & heed::AttendWhere(flags) & heed::AdditiveBias(bias);

    Tensor<T, 4> scores({batch, heads, q_len, kv_len});
    heed::AttentionOptions<T> options{.scale = a.scale};
    switch (a.qk_matmul_output_mode) {
        case 0:
            options.scores = scores.view();
            options.scores_at = heed::ScoreStage::scaled;
            break;
        case 1:
            options.scores = scores.view();
            options.scores_at = heed::ScoreStage::capped;
            break;
        case 2:
            options.scores = scores.view();
            options.scores_at = heed::ScoreStage::masked;
            break;
        case 3:
            options.weights = scores.view();
            break;
        default:
            refuse("qk_matmul_output_mode must be 0 to 3; found " +
                   std::to_string(a.qk_matmul_output_mode));
    }
    if (a.softcap > 0)
        heed::scaled_dot_product_attention(q, k, v, out, rules & heed::SoftCap{a.softcap}, options);
    else
        heed::scaled_dot_product_attention(q, k, v, out, rules, options);

    NamedTensors result;
    if (heads_last)
        result.add("out.Y", y.view().merge(2));
    else
        result.add("out.Y", y);
    result.add("out.present_key", k);
    result.add("out.present_value", v);
    result.add("out.qk_matmul_output", scores);
    return result;
}

/// The same tensors, those with these names in another floating type.
template <class To>
NamedTensors with_type(const NamedTensors& tensors, std::initializer_list<std::string_view> names) {
    NamedTensors result;
    for (const NamedTensors::Tensors::value_type& named : tensors) {
        const std::string& name = named.first;
        const AnyTensor& tensor = named.second;
        if (std::ranges::count(names, name) == 0)
            result.add(name, tensor);
        else if (tensor.shape().size() == 3)
            result.add(name, tensor.to<To, 3>(name));
        else
            result.add(name, tensor.to<To, 4>(name));
    }
    return result;
}

/// All outputs of the operator for the inputs and attributes of a case. Values of another type
/// than the queries are widened to the compute type, which changes none of them.
inline NamedTensors run_attention(const NamedTensors& attention_case) {
    Inputs{attention_case}.refuse_unknown();
    const Attributes attributes = read_attributes(attention_case.metadata());
    const AnyTensor& q = attention_case.at("in.Q");
    const AnyTensor& v = attention_case.at("in.V");
    return with_type_of(q, "Q", [&]<class T>(T) {
        return with_type_of(v, "V", [&]<class U>(U) -> NamedTensors {
            using C = heed::ComputeType<T>;
            if constexpr (!std::same_as<C, heed::ComputeType<U>>) {
                refuse("Q and V must both be double, or neither");
            } else if constexpr (std::same_as<T, U>) {
                return outputs_of<T, T>({attention_case}, attributes);
            } else {
                const auto wide = with_type<C>(attention_case, {"in.V", "in.past_value"});
                return with_type<U>(outputs_of<T, C>({wide}, attributes), {"out.present_value"});
            }
        });
    });
}

/// The distance between the values of type T next to x.
template <class T>
double unit_of(double x) {
    using Limits = std::numeric_limits<T>;
    const int least = Limits::min_exponent - 1;
    const int exponent = x == 0 ? least : std::max(std::ilogb(x), least);
    return std::ldexp(1.0, exponent - (Limits::digits - 1));
}

/// Is the difference small enough? 1e-6, absolute up to 1 and relative above; or, of a half type,
/// one rounding where that is more.
template <class T>
bool agrees(double found, double expected) {
    if (found == expected || (std::isnan(found) && std::isnan(expected))) return true;
    if (!std::isfinite(found) || !std::isfinite(expected)) return false;
    const double magnitude = std::max(std::abs(found), std::abs(expected));
    double allowed = 1e-6 * std::max(magnitude, 1.0);
    if constexpr (!heed::ComputeScalar<T>) allowed = std::max(allowed, unit_of<T>(magnitude));
    return std::abs(found - expected) <= allowed;
}

/// "[0, 1, 2]": the position of the n-th element.
inline std::string position_text(std::span<const Index> shape, Index n) {
    std::vector<Index> position(shape.size());
    for (std::size_t d = shape.size(); d-- > 0;) {
        position[d] = n % shape[d];
        n /= shape[d];
    }
    return heed::detail::list_text(position);
}

/// Empty when the two agree, otherwise what is wrong.
inline std::string difference(const AnyTensor& found, const AnyTensor& expected) {
    if (found.scalar_type() != expected.scalar_type() || found.shape() != expected.shape())
        return "found " + to_string(found) + ", expected " + to_string(expected);
    return with_type_of(expected, "an output", [&]<class T>(T) -> std::string {
        const std::size_t count = expected.bytes().size() / sizeof(T);
        const std::span f(reinterpret_cast<const T*>(found.bytes().data()), count);
        const std::span e(reinterpret_cast<const T*>(expected.bytes().data()), count);
        std::string first;
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const auto x = static_cast<double>(f[i]), y = static_cast<double>(e[i]);
            if (agrees<T>(x, y) || wrong++ > 0) continue;
            std::array<char, 100> text{};
            std::snprintf(text.data(), text.size(), "found %.9g, expected %.9g", x, y);
            first = position_text(expected.shape(), static_cast<Index>(i)) + ": " + text.data();
        }
        if (wrong == 0) return {};
        return first + " (" + std::to_string(wrong) + " of " + std::to_string(count) + " differ)";
    });
}

/// Runs a case; empty when every expected output came out, otherwise what is wrong.
inline std::string failure_of(const NamedTensors& attention_case) {
    const NamedTensors found = run_attention(attention_case);
    bool compared = false;
    for (const auto& [name, expected] : attention_case) {
        if (!name.starts_with("out.")) continue;
        compared = true;
        const std::string problem = difference(found.at(name), expected);
        if (!problem.empty()) return name + " " + problem;
    }
    return compared ? "" : "the case must have an expected output; found none";
}

}  // namespace conformance
