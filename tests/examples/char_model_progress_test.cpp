// What examples/05_train_char_model tells of a training while it runs, and the plot of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "05_train_char_model/plot.hpp"
#include "05_train_char_model/progress.hpp"
#include "heed/base/contract.hpp"
#include "support/temporary_folder.hpp"

namespace char_model {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(CharModelProgress, ALineTellsAll) {
    EXPECT_EQ(to_string(ProgressReport{.step = 50,
                                       .steps = 200,
                                       .loss = 1.8234,
                                       .validation_loss = 1.9,
                                       .letters_per_second = 12345.6,
                                       .seconds_left = 201.4}),
              "step  50/200 [######------------------] loss 1.823, held out 1.900, "
              "12346 letters/s, 3:21 left");
}

TEST(CharModelProgress, BeginAndEndOfTheWay) {
    const std::string begin = to_string(ProgressReport{.step = 0, .steps = 9});
    EXPECT_THAT(begin, HasSubstr("step 0/9 [------------------------]"));
    EXPECT_THAT(begin, Not(HasSubstr("held out")));
    EXPECT_THAT(to_string(ProgressReport{.step = 9, .steps = 9, .seconds_left = 3723.0}),
                HasSubstr("[########################] loss 0.000, 0 letters/s, 1:02:03 left"));
}

TEST(CharModelProgress, IsQuietWithoutATerminal) {
    std::ostringstream out;
    Progress progress(out, /*is_terminal=*/false, 0, 1000, 64);
    for (Index step = 1; step <= 1000; ++step) progress.show(step, 1.0, {});
    progress.finish();
    const std::string lines = out.str();
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 20);
    EXPECT_THAT(lines, Not(HasSubstr("\r")));
    EXPECT_THAT(lines, HasSubstr("step 1000/1000"));
}

TEST(CharModelProgress, StaysOnItsLineOfATerminal) {
    std::ostringstream out;
    Progress progress(out, /*is_terminal=*/true, 0, 1000, 64);
    for (Index step = 1; step <= 1000; ++step) progress.show(step, 1.0, {});
    EXPECT_THAT(out.str(), Not(HasSubstr("\n")));
    EXPECT_THAT(out.str(), HasSubstr("\rstep 1000/1000"));
    progress.finish();
    progress.finish();
    EXPECT_TRUE(out.str().ends_with("left\x1b[K\n"));
}

TEST(CharModelCurve, IsSmoothedOverAHundredSteps) {
    Curve curve;
    EXPECT_EQ(curve.smoothed(0), 0.0);
    for (int step = 0; step < 300; ++step) curve.training.push_back(step);
    EXPECT_EQ(curve.smoothed(1), 0.0);
    EXPECT_EQ(curve.smoothed(4), 2.5);      // of 2 and 3, the last half
    EXPECT_EQ(curve.smoothed(200), 149.5);  // of 100 to 199, which is both
    EXPECT_EQ(curve.smoothed(300), 249.5);  // of 200 to 299
}

Curve some_curve() {
    return {.training = {4.0, 3.0, 2.0}, .validation = {{2, 3.25}, {3, 2.5}}};
}

TEST(CharModelPlot, TheScriptHoldsTheNumbersAndTheName) {
    const std::string script = plot_script("it's.svg", some_curve());
    EXPECT_THAT(script, HasSubstr("set terminal svg"));
    EXPECT_THAT(script, HasSubstr("set output 'it''s.svg'\n"));
    EXPECT_THAT(script, HasSubstr("$training << END\n1 4\n2 3\n3 2.5\nEND\n"));
    EXPECT_THAT(script, HasSubstr("$validation << END\n2 3.25\n3 2.5\nEND\n"));
    EXPECT_THAT(plot_script("a.png", {.training = {1.0}, .validation = {}}),
                Not(HasSubstr("held out")));
    EXPECT_THROW((void)plot_script("a.txt", some_curve()), heed::ArgumentError);
}

TEST(CharModelPlot, GnuplotDrawsIt) {
    if (!can_plot()) GTEST_SKIP() << "there is no gnuplot";
    const support::TemporaryFolder folder;
    const auto file = folder / "the 'curve'.svg";
    write_plot(file, some_curve());
    std::ifstream picture(file);
    const std::string text{std::istreambuf_iterator<char>(picture), {}};
    EXPECT_THAT(text, HasSubstr("<svg"));
    EXPECT_THAT(text, HasSubstr("held out"));
    EXPECT_THROW(write_plot(folder / "none" / "curve.svg", some_curve()), std::runtime_error);
}

}  // namespace
}  // namespace char_model
