// The model of examples/05_train_char_model: its gradients, and what it writes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "05_train_char_model/char_model.hpp"
#include "05_train_char_model/sampling.hpp"
#include "heed/ops/cross_entropy.hpp"
#include "support/random.hpp"

namespace char_model {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::ThrowsMessage;

template <class T>
CharModel<T> small_model(std::uint64_t seed = 3) {
    CharModel<T> model(
        {.letters = 5, .context = 4, .layers = 2, .heads = 2, .dim = 4, .hidden_dim = 6});
    model.reset_parameters(seed);
    return model;
}

std::vector<int> random_ids(support::Random& random, std::size_t count) {
    std::vector<int> ids(count);
    for (int& id : ids) id = static_cast<int>(random.integer(0, 4));
    return ids;
}

TEST(CharModel, GradientsAreThoseOfCentralDifferences) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    CharModel<double> model = small_model<double>();
    // Weights as small as those of a fresh model would hide what attention adds.
    model.for_each_parameter([&](const std::string&, auto view) {
        for (Index i = 0; i < view.element_count(); ++i) view.data()[i] += 0.3 * random.normal();
    });
    CharModel<double> gradients = model.make_gradients();
    const std::vector<int> ids = random_ids(random, 6), targets = random_ids(random, 6);
    const auto loss = [&] { return heed::cross_entropy(model.forward(ids, 3), targets); };
    model.train();
    heed::Tensor<double, 2> dlogits({6, 5});
    heed::cross_entropy(model.forward(ids, 3), targets, {}, dlogits.view());
    model.backward(ids, dlogits, gradients);

    std::vector<double> found;
    gradients.for_each_parameter([&](const std::string&, auto view) {
        found.insert(found.end(), view.data(), view.data() + view.element_count());
    });
    std::size_t place = 0;
    model.for_each_parameter([&](const std::string& name, auto view) {
        for (Index i = 0; i < view.element_count(); ++i) {
            constexpr double step = 1e-5;
            double& weight = view.data()[i];
            const double before = std::exchange(weight, weight + step);
            const double up = loss();
            weight = before - step;
            const double down = loss();
            weight = before;
            const double expected = (up - down) / (2 * step);
            EXPECT_NEAR(found[place++], expected, 1e-8 + 1e-6 * std::abs(expected))
                << name << " element " << i;
        }
    });
    EXPECT_EQ(place, found.size());
    EXPECT_EQ(static_cast<Index>(place), model.parameter_count());
}

TEST(CharModel, SeesNoLetterThatComesLater) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    CharModel<float> model = small_model<float>();
    std::vector<int> ids = random_ids(random, 4);
    const heed::Tensor<float, 2> before(model.forward(ids, 4));
    ids[2] = (ids[2] + 1) % 5;
    const heed::Tensor<float, 2> after(model.forward(ids, 4));
    const auto row = [](const heed::Tensor<float, 2>& logits, Index place) {
        return std::vector<float>(logits.data() + 5 * place, logits.data() + 5 * place + 5);
    };
    for (Index place : {0, 1}) EXPECT_EQ(row(before, place), row(after, place));
    for (Index place : {2, 3}) EXPECT_NE(row(before, place), row(after, place));
}

TEST(CharModel, RowsDoNotDependOnTheirBatch) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    CharModel<double> model = small_model<double>();
    const std::vector<int> ids = random_ids(random, 12);
    const heed::Tensor<double, 2> together(model.forward(ids, 4));
    for (std::size_t row = 0; row < 3; ++row) {
        const auto alone = model.forward(std::span(ids).subspan(4 * row, 4), 4);
        const auto begin = static_cast<Index>(4 * row);
        // Products of other sizes may sum in another order.
        EXPECT_TRUE(heed::all_close(alone, together.view().slice(0, begin, 4), 1e-12, 1e-12));
    }
}

TEST(CharModel, HasTheWeightsOfItsSizes) {
    const CharModel<float> model = small_model<float>();
    const Index layer = 4 * (4 * 4 + 4)                         // attention: q, k, v, out
                        + (6 * 4 + 6) + (4 * 6 + 4)             // feed-forward
                        + 2 * 2 * 4;                            // norms
    EXPECT_EQ(model.parameter_count(), 5 * 4 + 4 * 4            // letters and places
                                           + 2 * layer + 2 * 4  // the last norm
                                           + 5 * 4 + 5);        // head
    std::set<std::string> names;
    model.for_each_parameter([&](const std::string& name, auto) { names.insert(name); });
    EXPECT_THAT(names, Contains("letters.weight"));
    EXPECT_THAT(names, Contains("layers.1.self_attn.in_proj_weight"));
    EXPECT_THAT(names, Contains("head.bias"));
}

TEST(CharModel, SeedsMakeOtherWeightsInEveryPart) {
    const auto weights = [](std::uint64_t seed) {
        std::vector<float> all;
        small_model<float>(seed).for_each_parameter([&](const std::string& name, auto view) {
            if (name.ends_with("weight") && name.find("norm") == std::string::npos)
                all.insert(all.end(), view.data(), view.data() + view.element_count());
        });
        return all;
    };
    const std::vector<float> first = weights(1), second = weights(2);
    EXPECT_EQ(first, weights(1));
    EXPECT_EQ(std::set<float>(first.begin(), first.end()).size(), first.size());  // no draw twice
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_NE(first[i], second[i]);
}

TEST(CharModel, RefusesWhatItCannotRead) {
    CharModel<float> model = small_model<float>();
    const std::vector<int> ids{0, 1, 2, 3, 4, 0};
    EXPECT_THAT([&] { (void)model.forward(ids, 5); },
                ThrowsMessage<heed::ShapeError>(HasSubstr("found 6 ids in rows of 5")));
    EXPECT_THROW((void)model.forward(ids, 4), heed::ShapeError);
    EXPECT_THROW((void)model.forward(ids, 0), heed::ShapeError);
    EXPECT_THROW((void)model.forward({}, 1), heed::ShapeError);
    EXPECT_THROW((void)model.forward(std::vector<int>{5}, 1), heed::ArgumentError);
    EXPECT_NO_THROW((void)model.forward(ids, 3));
}

TEST(CharModelSampling, DrawsByTheSoftmax) {
    // Probabilities 1/6, 1/2, 1/3.
    const std::vector<float> logits{std::log(1.0f), std::log(3.0f), std::log(2.0f)};
    EXPECT_EQ(sample_letter(logits, 1.0, 0.0), 0);
    EXPECT_EQ(sample_letter(logits, 1.0, 0.16), 0);
    EXPECT_EQ(sample_letter(logits, 1.0, 0.17), 1);
    EXPECT_EQ(sample_letter(logits, 1.0, 0.66), 1);
    EXPECT_EQ(sample_letter(logits, 1.0, 0.67), 2);
    EXPECT_EQ(sample_letter(logits, 1.0, 1.0), 2);
    // At half the temperature their squares: 1/14, 9/14, 4/14.
    EXPECT_EQ(sample_letter(logits, 0.5, 0.07), 0);
    EXPECT_EQ(sample_letter(logits, 0.5, 0.08), 1);
    EXPECT_EQ(sample_letter(logits, 0.5, 0.71), 1);
    EXPECT_EQ(sample_letter(logits, 0.5, 0.72), 2);
}

TEST(CharModelSampling, ColdIsTheLikeliest) {
    EXPECT_EQ(sample_letter(std::vector<float>{1.0f, 3.0f, 3.0f}, 0.0, 0.999), 1);
    EXPECT_EQ(sample_letter(std::vector<float>{1.0f, 3.0f, 2.0f}, 1e-300, 0.999), 1);
    EXPECT_EQ(sample_letter(std::vector<float>{3e38f, -3e38f}, 1.0, 0.999), 0);
}

TEST(CharModelSampling, WritesTheSameForTheSameSeedBeyondTheContext) {
    CharModel<float> model = small_model<float>();
    const Alphabet alphabet("abcde");
    const auto written = [&](std::uint64_t seed, std::string_view prompt) {
        std::ostringstream out;
        sample_text(out, model, alphabet, prompt, 40, 1.0, seed);
        return out.str();
    };
    const std::string text = written(1, "");
    EXPECT_EQ(text.size(), 40u);
    EXPECT_EQ(text.find_first_not_of("abcde"), std::string::npos);
    EXPECT_EQ(written(1, ""), text);
    EXPECT_EQ(written(1, "a"), text);  // the first letter, where nothing is given
    EXPECT_NE(written(2, ""), text);
    EXPECT_EQ(written(1, "ddddddbbbb"), written(1, "bbbb"));  // sees its context only
}

TEST(CharModelSampling, RefusesBeforeItWrites) {
    CharModel<float> model = small_model<float>();
    const Alphabet alphabet("abcde");
    std::ostringstream out;
    EXPECT_THROW(sample_text(out, model, alphabet, "abx", 1, 1.0, 1), heed::ArgumentError);
    EXPECT_THROW(sample_text(out, model, alphabet, "a", 1, -1.0, 1), heed::ArgumentError);
    EXPECT_THROW(sample_text(out, model, alphabet, "a", 1, std::nan(""), 1), heed::ArgumentError);
    EXPECT_THAT(out.str(), IsEmpty());
    sample_text(out, model, alphabet, "a", 0, 1.0, 1);
    EXPECT_THAT(out.str(), IsEmpty());
}

}  // namespace
}  // namespace char_model
