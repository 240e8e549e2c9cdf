// Does a list of lines name every cache line of the rows that were added, and then only one that is
// near?

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <span>

#include "heed/simd/lines_ahead.hpp"
#include "heed/tensor/tensor.hpp"

namespace {

using heed::Index;
using heed::TensorView;
using heed::detail::LinesAhead;

constexpr std::uintptr_t line = 64;

/// The lines that so many calls of take() name.
std::set<std::uintptr_t> lines_of(LinesAhead& ahead, int calls, Index count) {
    std::set<std::uintptr_t> lines;
    for (int call = 0; call < calls; ++call) {
        const LinesAhead::Walk walk = ahead.take(count);
        EXPECT_LE(walk.count, count);
        for (Index n = 0; n < walk.count; ++n)
            lines.insert((walk.first + static_cast<std::uintptr_t>(n) * walk.step) / line);
    }
    return lines;
}

template <class T>
void expect_all_named(const std::set<std::uintptr_t>& lines, TensorView<const T, 2> rows) {
    for (Index r = 0; r < rows.extent(0); ++r)
        for (Index c = 0; c < rows.extent(1); ++c)
            ASSERT_TRUE(lines.contains(reinterpret_cast<std::uintptr_t>(&rows(r, c)) / line))
                << "row " << r << ", column " << c;
}

/// Ten rows of 40 floats are 25 lines when dense and 30 when each row has its own.
TEST(LinesAhead, NamesEveryLineOfDenseRows) {
    const heed::Tensor<float, 2> rows({10, 40});
    LinesAhead ahead;
    ahead.add(TensorView<const float, 2>(rows));
    const auto lines = lines_of(ahead, 4, 7);
    expect_all_named<float>(lines, rows);
    EXPECT_LE(lines.size(), 28u) << "lines that nobody wants";
}

TEST(LinesAhead, NamesEveryLineOfRowsApart) {
    const heed::Tensor<double, 3> rows({10, 5, 24});
    const auto apart = rows.view().select(1, 3);
    LinesAhead ahead;
    ahead.add(apart);
    expect_all_named<double>(lines_of(ahead, 6, 5), apart);
}

TEST(LinesAhead, AWalkEndsWithItsRowsUnlessTheyAreVeryFew) {
    const heed::Tensor<float, 3> many({100, 3, 16}), few({4, 3, 16});
    LinesAhead ahead;
    ahead.add(many.view().select(1, 0).slice(1, 0, 16));
    ahead.add(few.view().select(1, 0).slice(1, 0, 16));
    EXPECT_EQ(ahead.take(70).count, 70);
    EXPECT_EQ(ahead.take(70).count, 32) << "of which 30 are left";
    EXPECT_EQ(ahead.take(70).count, 32) << "of which there are 4";
    const LinesAhead::Walk nothing = ahead.take(70);
    EXPECT_EQ(nothing.count, 70);
    EXPECT_EQ(nothing.step, 0u);
}

TEST(LinesAhead, NamesSeveralBlocksOneAfterAnother) {
    const heed::Tensor<float, 2> a({16, 16}), b({16, 16});
    LinesAhead ahead;
    ahead.add(TensorView<const float, 2>(a));
    ahead.add(TensorView<const float, 2>(b));
    expect_all_named<float>(lines_of(ahead, 1, 16), a);
    expect_all_named<float>(lines_of(ahead, 1, 16), b);
}

TEST(LinesAhead, SpreadsLinesOverTheAsks) {
    const heed::Tensor<float, 2> rows({10, 48});  // 30 lines
    const auto memory = std::as_bytes(std::span(rows.data(), 480));
    LinesAhead ahead;
    ahead.add_evenly(memory, 120);
    EXPECT_NEAR(static_cast<double>(lines_of(ahead, 6, 10).size()), 15, 1);
    LinesAhead again;
    again.add_evenly(memory, 120);
    expect_all_named<float>(lines_of(again, 12, 10), rows);
}

TEST(LinesAhead, FewAsksReachTheEndToo) {
    const heed::Tensor<float, 2> rows({10, 48});
    LinesAhead ahead;
    ahead.add_evenly(std::as_bytes(std::span(rows.data(), 480)), 20);
    const auto lines = lines_of(ahead, 2, 10);
    EXPECT_EQ(lines.size(), 20u);
    EXPECT_NEAR(static_cast<double>(*lines.rbegin() - *lines.begin()), 29, 1);
}

TEST(LinesAhead, AsksForNothingWithoutAsksOrMemory) {
    const heed::Tensor<float, 2> one({1, 1});
    LinesAhead ahead;
    ahead.add_evenly(std::as_bytes(std::span(one.data(), 1)), 0);
    ahead.add_evenly({}, 100);
    EXPECT_EQ(ahead.take(1).first, reinterpret_cast<std::uintptr_t>(&ahead));
}

TEST(LinesAhead, NamesItselfWhenNothingIsLeft) {
    const heed::Tensor<float, 2> rows({4, 16}), none({0, 16});
    LinesAhead ahead;
    ahead.add(TensorView<const float, 2>(none));
    ahead.add(TensorView<const float, 2>(rows).transpose(0, 1));
    const LinesAhead::Walk walk = ahead.take(100);
    EXPECT_EQ(walk.first, reinterpret_cast<std::uintptr_t>(&ahead));
    EXPECT_EQ(walk.step, 0u);
}

/// The lines to write that so many calls name, with `count` asks each.
std::set<std::uintptr_t> lines_to_write(LinesAhead& ahead, int calls, Index count) {
    std::set<std::uintptr_t> lines;
    for (int call = 0; call < calls; ++call)
        for (LinesAhead::Written& written : ahead.written()) {
            const LinesAhead::Written::Lines some = written.take(count);
            for (Index n = 0; n < some.count; ++n)
                lines.insert((some.first + static_cast<std::uintptr_t>(n * some.step)) / line);
        }
    return lines;
}

TEST(LinesAhead, NamesEveryLineToWriteAfterOthersAndNoMore) {
    const heed::Tensor<double, 3> rows({10, 5, 24});
    const auto apart = rows.view().select(1, 3);  // 30 lines
    LinesAhead ahead;
    ahead.add_written(apart, 300, 100);
    EXPECT_TRUE(lines_to_write(ahead, 10, 10).empty()) << "too soon";
    EXPECT_NEAR(static_cast<double>(lines_to_write(ahead, 15, 10).size()), 15, 2);
    LinesAhead again;
    again.add_written(apart, 300, 100);
    const auto lines = lines_to_write(again, 13, 40);
    expect_all_named<double>(lines, apart);
    EXPECT_EQ(lines.size(), 30u);
    EXPECT_EQ(ahead.take(1).first, reinterpret_cast<std::uintptr_t>(&ahead)) << "asked for twice";
}

TEST(LinesAhead, NamesSeveralResultsSideBySide) {
    const heed::Tensor<float, 2> a({16, 16}), b({4, 32});
    LinesAhead ahead;
    ahead.add_written(TensorView<const float, 2>(a), 64);
    ahead.add_written(TensorView<const float, 2>(b), 64);
    ahead.add_written(TensorView<const float, 2>(), 64);
    EXPECT_NEAR(static_cast<double>(lines_to_write(ahead, 2, 16).size()), 12, 2);
    const auto left = lines_to_write(ahead, 20, 16);
    EXPECT_NEAR(static_cast<double>(left.size()), 12, 2);
}

TEST(LinesAhead, WithoutAsksAResultIsNamedAtOnce) {
    const heed::Tensor<float, 2> rows({4, 16});
    LinesAhead ahead;
    ahead.add_written(TensorView<const float, 2>(rows), 0);
    expect_all_named<float>(lines_to_write(ahead, 1, 1), rows);
}

TEST(LinesAhead, ResultsLieElsewhereWhereSeveralWorkersShareWhatIsNear) {
    const Index most = static_cast<Index>(heed::detail::near_bytes / sizeof(float));
    EXPECT_FALSE(heed::detail::may_lie_elsewhere(most, sizeof(float), 1));
    EXPECT_TRUE(heed::detail::may_lie_elsewhere(most, sizeof(float), 2));
    EXPECT_FALSE(heed::detail::may_lie_elsewhere(most + 1, sizeof(float), 2));
}

}  // namespace
