// Does the conformance runner understand every kind of case, and does it notice a wrong one?
// Cases are made here, from the rules of the operator; their outputs come from the oracle.

#include "conformance/attention_case.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/oracle.hpp"
#include "support/random.hpp"

namespace {

using conformance::failure_of;
using heed::AnyTensor;
using heed::Index;
using heed::NamedTensors;
using heed::Tensor;
using oracle::Sizes;
using testing::HasSubstr;
using testing::StartsWith;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// What one case asks for.
struct Wish {
    Sizes sizes{};  ///< Lk counts the cached keys too
    bool rank_3 = false;
    bool is_causal = false;
    Index past = -1;  ///< cached keys; -1: no cache
    std::vector<Index> nonpad = {};
    Index left = -1, right = -1;
    double scale = 0.0;  ///< 0: the default
    double softcap = 0.0;
    Index mode = 0;
    enum class Mask { none, flags, numbers } mask = Mask::none;
    std::vector<Index> mask_shape = {};
};

/// Row-major values of a tensor, and their shape.
struct Values {
    std::vector<Index> shape;
    std::vector<double> values;
};

std::size_t count_of(const std::vector<Index>& shape) {
    std::size_t count = 1;
    for (Index extent : shape) count *= static_cast<std::size_t>(extent);
    return count;
}

/// Numbers as T, and what T made of them.
template <class T>
AnyTensor stored(Values& v) {
    AnyTensor tensor(heed::scalar_type_of<T>, v.shape);
    T* const elements = reinterpret_cast<T*>(tensor.bytes().data());
    for (std::size_t i = 0; i < v.values.size(); ++i) {
        elements[i] = static_cast<T>(static_cast<heed::ComputeType<T>>(v.values[i]));
        v.values[i] = static_cast<double>(elements[i]);
    }
    return tensor;
}

/// [B, H, L, D] with the positions [begin, end) only, as [B, L, H * D] if wanted.
Values part(const std::vector<double>& all, Index B, Index H, Index L, Index D, Index begin,
            Index end, bool rank_3) {
    Values result;
    result.shape = rank_3 ? std::vector<Index>{B, end - begin, H * D}
                          : std::vector<Index>{B, H, end - begin, D};
    result.values.resize(count_of(result.shape));
    for (Index b = 0; b < B; ++b)
        for (Index h = 0; h < H; ++h)
            for (Index l = begin; l < end; ++l)
                for (Index d = 0; d < D; ++d) {
                    const Index row = l - begin, length = end - begin;
                    const Index to = rank_3 ? ((b * length + row) * H + h) * D + d
                                            : ((b * H + h) * length + row) * D + d;
                    result.values[static_cast<std::size_t>(to)] =
                        all[static_cast<std::size_t>(((b * H + h) * L + l) * D + d)];
                }
    return result;
}

/// The element of a right-aligned, broadcast mask; `masked` where its last dimension is too short.
double mask_at(const Values& mask, std::array<Index, 4> at, double masked) {
    const std::size_t rank = mask.shape.size();
    Index place = 0;
    for (std::size_t d = 0; d < rank; ++d) {
        const Index extent = mask.shape[d], i = at[4 - rank + d];
        const bool last = d + 1 == rank;
        if (last && i >= extent) return masked;
        place = place * extent + (extent == 1 && !last ? 0 : i);
    }
    return mask.values[static_cast<std::size_t>(place)];
}

/// Inputs, attributes and expected outputs, with T for queries and keys, U for values.
template <class T, class U>
NamedTensors make_case(const Wish& w, support::Random& random) {
    const Sizes& n = w.sizes;
    NamedTensors result;
    // Small scores: the error of a weight grows with the score, and 1e-6 is to be kept.
    Values q{{n.B, n.H, n.Lq, n.D}, random.normals<double>(n.query_count(), 0.5)};
    Values k{{n.B, n.Hk, n.Lk, n.D}, random.normals<double>(n.key_count(), 0.5)};
    Values v{{n.B, n.Hk, n.Lk, n.Dv}, random.normals<double>(n.value_count())};
    const AnyTensor all_k = stored<T>(k), all_v = stored<U>(v);
    stored<T>(q);

    const Index past = std::max<Index>(w.past, 0);
    const auto add = [&]<class E>(E, const std::string& name, Values values) {
        result.add(name, stored<E>(values));
    };
    add(T(), "in.Q", part(q.values, n.B, n.H, n.Lq, n.D, 0, n.Lq, w.rank_3));
    add(T(), "in.K", part(k.values, n.B, n.Hk, n.Lk, n.D, past, n.Lk, w.rank_3));
    add(U(), "in.V", part(v.values, n.B, n.Hk, n.Lk, n.Dv, past, n.Lk, w.rank_3));
    if (w.past >= 0) {
        add(T(), "in.past_key", part(k.values, n.B, n.Hk, n.Lk, n.D, 0, past, false));
        add(U(), "in.past_value", part(v.values, n.B, n.Hk, n.Lk, n.Dv, 0, past, false));
        result.add("out.present_key", all_k);
        result.add("out.present_value", all_v);
    }
    if (!w.nonpad.empty())
        result.add("in.nonpad_kv_seqlen", Tensor<std::int64_t, 1>(n.B, std::span(w.nonpad)));

    Values mask{w.mask_shape, {}};
    if (w.mask == Wish::Mask::flags) {
        for (unsigned char flag : random.flags(count_of(mask.shape), 0.7))
            mask.values.push_back(flag);
        AnyTensor flags(heed::ScalarType::boolean, mask.shape);
        for (std::size_t i = 0; i < mask.values.size(); ++i)
            flags.bytes()[i] = static_cast<std::byte>(mask.values[i]);
        result.add("in.attn_mask", flags);
    } else if (w.mask == Wish::Mask::numbers) {
        mask.values = random.normals<double>(count_of(mask.shape));
        for (double& value : mask.values)
            if (random.chance(0.2)) value = -infinity;
        result.add("in.attn_mask", stored<T>(mask));
    }

    const auto attribute = [&](const std::string& name, const auto& value) {
        result.metadata()["attr." + name] = std::to_string(value);
    };
    if (w.rank_3) attribute("q_num_heads", n.H), attribute("kv_num_heads", n.Hk);
    if (w.is_causal) attribute("is_causal", 1);
    if (w.left != -1) attribute("left_window_size", w.left);
    if (w.right != -1) attribute("right_window_size", w.right);
    if (w.scale != 0) attribute("scale", w.scale);
    if (w.softcap != 0) attribute("softcap", w.softcap);
    if (w.mode != 0) attribute("qk_matmul_output_mode", w.mode);

    const auto key_count = [&](Index b) {
        return w.nonpad.empty() ? n.Lk : w.nonpad[static_cast<std::size_t>(b)];
    };
    oracle::Rules rules{.softcap = w.softcap};
    if (w.scale != 0) rules.scale = w.scale;
    if (w.mask == Wish::Mask::numbers)
        rules.modify = [&](double s, Index b, Index h, Index i, Index j) {
            return s + mask_at(mask, {b, h, i, j}, -infinity);
        };
    rules.visible = [&](Index b, Index h, Index i, Index j) {
        const Index p = i + (w.past >= 0 ? w.past : w.nonpad.empty() ? 0 : key_count(b) - n.Lq);
        return j < key_count(b) && (!w.is_causal || j <= p) && (w.left < 0 || p - w.left <= j) &&
               (w.right < 0 || j <= p + w.right) &&
               (w.mask != Wish::Mask::flags || mask_at(mask, {b, h, i, j}, 0.0) != 0.0);
    };
    const auto expected = oracle::attention<double>(n, q.values, k.values, v.values, rules);
    add(T(), "out.Y", part(expected.output, n.B, n.H, n.Lq, n.Dv, 0, n.Lq, w.rank_3));
    const std::vector<double>* const stages[] = {&expected.scaled, &expected.capped,
                                                 &expected.masked, &expected.weights};
    add(T(), "out.qk_matmul_output", {{n.B, n.H, n.Lq, n.Lk}, *stages[w.mode]});
    return result;
}

Wish random_wish(support::Random& random) {
    Wish w;
    Sizes& n = w.sizes;
    n.B = random.integer(1, 3);
    n.Hk = random.integer(1, 3);
    n.H = n.Hk * random.integer(1, 3);
    n.Lq = random.integer(1, 5);
    n.D = random.integer(1, 9);
    n.Dv = random.integer(1, 9);
    w.rank_3 = random.chance(0.4);
    w.is_causal = random.chance(0.5);
    w.past = random.chance(0.3) ? random.integer(0, 4) : -1;
    n.Lk = random.integer(1, 7) + std::max<Index>(w.past, 0);
    if (random.chance(0.3))
        for (Index b = 0; b < n.B; ++b) w.nonpad.push_back(random.integer(0, n.Lk));
    if (random.chance(0.4)) w.left = random.integer(0, 3);
    if (random.chance(0.4)) w.right = random.integer(0, 3);
    if (random.chance(0.4)) w.scale = random.pick({0.25, 1.0, -0.5});
    if (random.chance(0.3)) w.softcap = random.pick({0.5, 2.0});
    w.mode = random.integer(0, 3);
    w.mask = random.pick({Wish::Mask::none, Wish::Mask::flags, Wish::Mask::numbers});
    if (w.mask != Wish::Mask::none) {
        const auto one_or = [&](Index extent) { return random.chance(0.3) ? Index{1} : extent; };
        // The last dimension is not broadcast: a shorter one is padded.
        const Index length = random.chance(0.3) ? random.integer(1, n.Lk) : n.Lk;
        w.mask_shape = {one_or(n.B), one_or(n.H), one_or(n.Lq), length};
        w.mask_shape.erase(w.mask_shape.begin(), w.mask_shape.begin() + random.integer(0, 3));
    }
    return w;
}

template <class T, class U>
void expect_passes(int count) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int i = 0; i < count; ++i)
        EXPECT_EQ(failure_of(make_case<T, U>(random_wish(random), random)), "") << "case " << i;
}

TEST(ConformanceCase, RandomCasesInFloat) {
    expect_passes<float, float>(600);
}
TEST(ConformanceCase, RandomCasesInDouble) {
    expect_passes<double, double>(200);
}
TEST(ConformanceCase, RandomCasesInHalf) {
    expect_passes<heed::half, heed::half>(300);
}
TEST(ConformanceCase, RandomCasesInBfloat16) {
    expect_passes<heed::bfloat16, heed::bfloat16>(300);
}
TEST(ConformanceCase, ValuesMayHaveAnotherType) {
    expect_passes<float, heed::half>(100);
    expect_passes<heed::half, float>(100);
    expect_passes<heed::bfloat16, heed::half>(100);
}

Wish plain_wish() {
    return {.sizes = {.B = 2, .H = 4, .Hk = 2, .Lq = 4, .Lk = 6, .D = 8, .Dv = 5}};
}

TEST(ConformanceCase, MaskOfRankOneShorterThanTheKeys) {
    support::Random random;
    Wish w = plain_wish();
    w.mask = Wish::Mask::numbers;
    for (Index length = 1; length <= 6; ++length) {
        w.mask_shape = {length};
        EXPECT_EQ(failure_of(make_case<float, float>(w, random)), "") << length;
    }
}

TEST(ConformanceCase, ThreeDimensionalMaskIsPerHead) {
    support::Random random;
    Wish w = plain_wish();
    w.sizes.B = w.sizes.H;  // so that [B, Lq, Lk] would fit as well
    w.mask = Wish::Mask::flags;
    w.mask_shape = {4, 4, 6};
    EXPECT_EQ(failure_of(make_case<float, float>(w, random)), "");
}

TEST(ConformanceCase, WindowCountsFromTheAbsolutePosition) {
    support::Random random;
    Wish w = plain_wish();
    w.past = 2;
    w.left = 1;
    w.right = 0;
    EXPECT_EQ(failure_of(make_case<float, float>(w, random)), "");
}

TEST(ConformanceCase, OtherNegativeWindowsAreErrors) {
    support::Random random;
    for (const char* side : {"left", "right"}) {
        NamedTensors c = make_case<float, float>(plain_wish(), random);
        c.metadata()["attr." + std::string(side) + "_window_size"] = "-1";
        EXPECT_EQ(failure_of(c), "");
        c.metadata()["attr." + std::string(side) + "_window_size"] = "-2";
        EXPECT_THROW((void)failure_of(c), heed::ArgumentError);
    }
}

/// The same case with its tensor `name` replaced.
NamedTensors with(const NamedTensors& original, const std::string& name, const AnyTensor& tensor) {
    NamedTensors result;
    for (const auto& [other, value] : original)
        if (other != name) result.add(other, value);
    result.add(name, tensor);
    result.metadata() = original.metadata();
    return result;
}

/// A copy whose element n is larger by `step`.
template <class T>
AnyTensor nudged(AnyTensor tensor, std::size_t n, double step) {
    T& element = reinterpret_cast<T*>(tensor.bytes().data())[n];
    element = static_cast<T>(static_cast<double>(element) + step);
    return tensor;
}

TEST(ConformanceCounterCheck, AWrongNumberInAnyOutputIsFound) {
    support::Random random;
    Wish w = plain_wish();
    w.past = 2;
    const NamedTensors c = make_case<float, float>(w, random);
    ASSERT_EQ(failure_of(c), "");
    for (const char* name :
         {"out.Y", "out.present_key", "out.present_value", "out.qk_matmul_output"}) {
        const AnyTensor& right = c.at(name);
        const std::size_t last = right.bytes().size() / sizeof(float) - 1;
        for (std::size_t n : {std::size_t{0}, last})
            EXPECT_THAT(failure_of(with(c, name, nudged<float>(right, n, 1e-4))),
                        StartsWith(std::string(name) + " ["));
    }
    EXPECT_THAT(failure_of(with(c, "out.Y", nudged<float>(c.at("out.Y"), 5, 0.5))),
                HasSubstr("out.Y [0, 0, 1, 0]: found "));
    EXPECT_THAT(failure_of(with(c, "out.Y", nudged<float>(c.at("out.Y"), 5, 0.5))),
                HasSubstr("(1 of 160 differ)"));
}

TEST(ConformanceCounterCheck, TwoRoundingsOfAHalfTypeAreTooMany) {
    support::Random random;
    const NamedTensors c = make_case<heed::half, heed::half>(plain_wish(), random);
    ASSERT_EQ(failure_of(c), "");
    const AnyTensor& y = c.at("out.Y");
    const std::span values(reinterpret_cast<const heed::half*>(y.bytes().data()),
                           y.bytes().size() / sizeof(heed::half));
    const auto largest = std::ranges::max_element(
        values, {}, [](heed::half value) { return std::abs(static_cast<float>(value)); });
    const double unit = conformance::unit_of<heed::half>(static_cast<double>(*largest));
    // The expected value itself may be one rounding off, so that three steps are two at least.
    const auto n = static_cast<std::size_t>(largest - values.begin());
    EXPECT_THAT(failure_of(with(c, "out.Y", nudged<heed::half>(y, n, 3 * unit))),
                StartsWith("out.Y ["));
}

TEST(ConformanceCounterCheck, AnotherMeaningIsFound) {
    // Each attribute changed by itself must change what comes out.
    support::Random random;
    Wish w = plain_wish();
    w.mask = Wish::Mask::numbers;
    w.mask_shape = {2, 4, 4, 6};
    const NamedTensors c = make_case<float, float>(w, random);
    const std::vector<std::pair<std::string, std::string>> changes{
        {"is_causal", "1"},        {"scale", "0.35"},          {"softcap", "3.0"},
        {"left_window_size", "0"}, {"right_window_size", "1"}, {"qk_matmul_output_mode", "2"}};
    for (const auto& [name, value] : changes) {
        NamedTensors changed = c;
        changed.metadata()["attr." + name] = value;
        EXPECT_THAT(failure_of(changed), StartsWith("out.")) << name;
    }
}

TEST(ConformanceCounterCheck, InfinityAndNanMustBeWhereExpected) {
    using conformance::agrees;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    EXPECT_TRUE(agrees<float>(-infinity, -infinity));
    EXPECT_TRUE(agrees<float>(nan, nan));
    EXPECT_FALSE(agrees<float>(infinity, -infinity));
    EXPECT_FALSE(agrees<float>(1e38, infinity));
    EXPECT_FALSE(agrees<float>(nan, 0));
    EXPECT_FALSE(agrees<float>(0, nan));
    EXPECT_TRUE(agrees<float>(0.5, 0.5 + 9e-7));
    EXPECT_FALSE(agrees<float>(0.5, 0.5 + 1.1e-6));
    EXPECT_TRUE(agrees<heed::half>(1, 1 + 0x1p-10));
    EXPECT_FALSE(agrees<heed::half>(1, 1 + 0x1p-9));
    EXPECT_FALSE(agrees<heed::half>(0x1p-5, 0x1p-5 + 0x1p-14));
    EXPECT_TRUE(agrees<heed::half>(0, 0x1p-20));
    EXPECT_FALSE(agrees<heed::half>(0, 0x1p-19));
    EXPECT_TRUE(agrees<heed::bfloat16>(1, 1 + 0x1p-7));
    EXPECT_FALSE(agrees<heed::bfloat16>(1, 1 + 0x1p-6));
}

TEST(ConformanceCounterCheck, WrongShapesAndTypesAreFound) {
    support::Random random;
    const NamedTensors c = make_case<float, float>(plain_wish(), random);
    const auto y = c.view<float, 4>("out.Y");
    EXPECT_EQ(failure_of(with(c, "out.Y", AnyTensor(y.transpose(0, 1)))),
              "out.Y found F32 [2, 4, 4, 5], expected F32 [4, 2, 4, 5]");
    EXPECT_EQ(failure_of(with(c, "out.Y", AnyTensor(c.to<heed::half, 4>("out.Y")))),
              "out.Y found F32 [2, 4, 4, 5], expected F16 [2, 4, 4, 5]");
}

TEST(ConformanceCounterCheck, CasesThatSayNothingOrTooMuchFail) {
    support::Random random;
    const NamedTensors c = make_case<float, float>(plain_wish(), random);
    NamedTensors no_output;
    for (const auto& [name, tensor] : c)
        if (name.starts_with("in.")) no_output.add(name, tensor);
    EXPECT_EQ(failure_of(no_output), "the case must have an expected output; found none");

    EXPECT_THROW((void)failure_of(with(c, "out.unknown", c.at("out.Y"))), heed::FormatError);
    EXPECT_THROW((void)failure_of(with(c, "in.unknown", c.at("out.Y"))), heed::FormatError);
    for (const auto& [name, value] :
         {std::pair("unknown", "1"), std::pair("scale", "1.0x"), std::pair("is_causal", "yes"),
          std::pair("qk_matmul_output_mode", "4"), std::pair("softcap", "")}) {
        NamedTensors changed = c;
        changed.metadata()["attr." + std::string(name)] = value;
        EXPECT_THROW((void)failure_of(changed), heed::FormatError) << name;
    }
}

}  // namespace
