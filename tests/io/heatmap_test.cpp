// Is a heatmap what it shows: the right shade, colour and label in the right place?

#include "heed/io/heatmap.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "io/files.hpp"

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <stb/stb_image.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace {

using files::TemporaryFolder;
using heed::ArgumentError;
using heed::Colouring;
using heed::FormatError;
using heed::HeatmapCells;
using heed::HeatmapOptions;
using heed::Index;
using heed::Rgb;
using heed::ShapeError;
using heed::Tensor;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using testing::ThrowsMessage;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

template <class X>
std::string text_of(const X& values, const HeatmapOptions& options = {}) {
    std::ostringstream out;
    heed::print_heatmap(out, values, options);
    return out.str();
}

/// The weights of a causal head over three words.
Tensor<float, 2> causal() {
    return {{3, 3}, {1, 0, 0, 0.25, 0.75, 0, 0.1f, 0.3f, 0.6f}};
}

HeatmapOptions labelled() {
    return {.title = "One head",
            .row_labels = {"Life", "is", "short"},
            .column_labels = {"Life", "is", "short"}};
}

TEST(TextHeatmap, PlainWithNumbers) {
    EXPECT_EQ(text_of(causal(), labelled()),
              "One head\n"
              "           Life       is    short\n"
              " Life   @@ 1.00     0.00     0.00\n"
              "   is   :: 0.25  ## 0.75     0.00\n"
              "short   .. 0.10  -- 0.30  ++ 0.60\n");
}

TEST(TextHeatmap, PlainBlocksWithLabelsDownwards) {
    HeatmapOptions options = labelled();
    options.cells = HeatmapCells::blocks;
    EXPECT_EQ(text_of(causal(), options),
              "One head\n"
              "          s\n"
              "      L   h\n"
              "      i   o\n"
              "      f i r\n"
              "      e s t\n"
              " Life @@\n"
              "   is ::##\n"
              "short ..--++\n"
              "      0.00 [ .:-=+*#%@] 1.00\n");
}

TEST(TextHeatmap, PlainHalfBlocksAreSingleCharacters) {
    EXPECT_EQ(text_of(causal(), {.cells = HeatmapCells::half_blocks}),
              "@\n"
              ":#\n"
              ".-+\n"
              "0.00 [ .:-=+*#%@] 1.00\n");
}

TEST(TextHeatmap, TrueColour) {
    const Tensor<float, 2> values({1, 2}, {0, 1});
    // The ends of the colour map, with white and black on them.
    EXPECT_EQ(text_of(values, {.row_labels = {"q"}, .colours = Colouring::true_colour}),
              "q \x1b[48;2;68;1;84m\x1b[38;2;255;255;255m 0.00 "
              "\x1b[48;2;253;231;37m\x1b[38;2;0;0;0m 1.00 \x1b[0m\n");
}

TEST(TextHeatmap, TwoHundredAndFiftySixColours) {
    const Tensor<float, 2> values({1, 2}, {0, 1});
    EXPECT_EQ(text_of(values, {.colours = Colouring::ansi_256}),
              "\x1b[48;5;53m\x1b[38;5;231m 0.00 \x1b[48;5;220m\x1b[38;5;16m 1.00 \x1b[0m\n");
    const std::string text =
        text_of(values, {.colours = Colouring::ansi_256, .cells = HeatmapCells::blocks});
    EXPECT_THAT(text, StartsWith("\x1b[48;5;53m  \x1b[48;5;220m  \x1b[0m\n0.00 [\x1b[48;5;53m "));
    EXPECT_THAT(text, EndsWith("\x1b[48;5;220m \x1b[0m] 1.00\n"));
}

TEST(TextHeatmap, TwoHundredAndFiftySixColoursGetLighter) {
    // Relative luminance of the palette's cube: levels 0, 95, 135, 175, 215, 255 at 16 + 36r + 6g +
    // b.
    const auto luminance = [](int number) {
        const auto linear = [](int level) {
            const double x = (level == 0 ? 0 : 55 + 40 * level) / 255.0;
            return std::pow((x + 0.055) / 1.055, 2.4);
        };
        const int n = number - 16;
        return 0.2126 * linear(n / 36) + 0.7152 * linear(n / 6 % 6) + 0.0722 * linear(n % 6);
    };
    Tensor<float, 2> values({1, 50});
    for (Index j = 0; j < 50; ++j) values(0, j) = static_cast<float>(j) / 49.0f;
    std::istringstream text(
        text_of(values, {.colours = Colouring::ansi_256, .cells = HeatmapCells::blocks}));
    std::string part;
    std::getline(text, part, ';');  // up to the first colour
    double last = -1;
    for (int j = 0; j < 50; ++j) {
        std::getline(text, part, 'm');
        const double here = luminance(std::stoi(part.substr(part.rfind(';') + 1)));
        EXPECT_GE(here, last) << j;
        last = here;
    }
    EXPECT_GT(last, 0.6);
}

TEST(TextHeatmap, HalfBlocksHoldTwoRows) {
    const Tensor<float, 2> values({3, 1}, {0, 1, 1});
    const std::string text =
        text_of(values, {.colours = Colouring::true_colour, .cells = HeatmapCells::half_blocks});
    // The third row has none below it.
    EXPECT_THAT(text, StartsWith("\x1b[38;2;68;1;84m\x1b[48;2;253;231;37m\u2580\x1b[0m\n"
                                 "\x1b[38;2;253;231;37m\u2580\x1b[0m\n"));
}

TEST(TextHeatmap, CellsAreChosenByTheNumberOfColumns) {
    const auto lines = [](Index columns, bool row_labels) {
        HeatmapOptions options;
        if (row_labels) options.row_labels = {"a", "b"};
        options.colours = Colouring::true_colour;
        const std::string text = text_of(Tensor<float, 2>({2, columns}), options);
        return std::pair(std::count(text.begin(), text.end(), '\n'),
                         text.find("\u2580") != std::string::npos);
    };
    EXPECT_EQ(lines(12, false), std::pair(2L, false));  // values
    EXPECT_EQ(lines(13, false), std::pair(3L, false));  // blocks and legend
    EXPECT_EQ(lines(49, false), std::pair(2L, true));   // both rows in one line, and legend
    EXPECT_EQ(lines(49, true), std::pair(3L, false));   // a line for each row label
}

TEST(TextHeatmap, NoTerminalNoColour) {
    // The variables that would ask for colour do not matter for a stream that nobody watches.
    setenv("COLORTERM", "truecolor", 1);
    EXPECT_THAT(text_of(causal()), Not(HasSubstr("\x1b")));
    unsetenv("COLORTERM");
}

/// What heed would send std::cout in this environment, were it a terminal.
Colouring at_a_terminal(const char* no_color, const char* term, const char* colorterm) {
    setenv("NO_COLOR", no_color, 1);
    setenv("TERM", term, 1);
    setenv("COLORTERM", colorterm, 1);
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    grantpt(terminal);
    unlockpt(terminal);
    const int screen = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    const int kept = dup(STDOUT_FILENO);
    dup2(screen, STDOUT_FILENO);
    const Colouring result = heed::detail::colouring_of(std::cout);
    dup2(kept, STDOUT_FILENO);
    for (int file : {terminal, screen, kept}) close(file);
    for (const char* name : {"NO_COLOR", "TERM", "COLORTERM"}) unsetenv(name);
    return result;
}

TEST(TextHeatmap, ATerminalGetsTheColoursItCanShow) {
    EXPECT_EQ(at_a_terminal("", "xterm", "truecolor"), Colouring::true_colour);
    EXPECT_EQ(at_a_terminal("", "xterm", "24bit"), Colouring::true_colour);
    EXPECT_EQ(at_a_terminal("", "xterm-256color", ""), Colouring::ansi_256);
    EXPECT_EQ(at_a_terminal("1", "xterm", "truecolor"), Colouring::none);
    EXPECT_EQ(at_a_terminal("", "dumb", "truecolor"), Colouring::none);
}

TEST(TextHeatmap, LabelsAreMeasuredInColumns) {
    // é is two bytes and one column, 注 three bytes and two columns, e + U+0301 one column.
    const Tensor<float, 2> values({3, 1}, {1, 1, 1});
    EXPECT_EQ(text_of(values, {.row_labels = {"é", "注意", "e\u0301t"}}),
              "   é   @@ 1.00\n"
              "注意   @@ 1.00\n"
              "  e\u0301t   @@ 1.00\n");
}

TEST(TextHeatmap, LongLabelsAreCut) {
    const Tensor<float, 2> values({1, 1}, {1});
    EXPECT_EQ(text_of(values, {.row_labels = {std::string(30, 'r')},
                               .column_labels = {std::string(30, 'c')}}),
              std::string(27, ' ') + "ccccccccccc~\n" +  //
                  std::string(23, 'r') + "~        @@ 1.00\n");
}

TEST(TextHeatmap, LabelsCannotSteerTheTerminal) {
    const Tensor<float, 2> values({1, 1}, {1});
    for (const char* evil : {"\x1b[2J", "a\nb", "\r", "\x7f", "\u009b", "\u202e", "\xff\xfe"}) {
        const std::string text =
            text_of(values, {.title = evil, .row_labels = {evil}, .column_labels = {evil}});
        EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3) << evil;
        for (const char* part : {"\x1b", "\r", "\x7f", "\u009b", "\u202e", "\xff"})
            EXPECT_THAT(text, Not(HasSubstr(part)));
    }
}

TEST(TextHeatmap, OddNumbers) {
    const Tensor<double, 2> values({1, 5}, {nan, infinity, -infinity, -0.001, 2});
    EXPECT_EQ(text_of(values), "  ??  nan  @@  inf     -inf     0.00  @@ 2.00\n");
    EXPECT_EQ(text_of(Tensor<float, 2>({1, 2})), "     0.00     0.00\n");
    EXPECT_EQ(text_of(Tensor<float, 2>({1, 2}, {nan, nan})), "  ??  nan  ??  nan\n");
    EXPECT_EQ(text_of(Tensor<float, 2>({1, 2}, {-1, 1})), "     -1.00  @@  1.00\n");
    EXPECT_EQ(text_of(Tensor<float, 2>({1, 2}, {12345, 0})), "  @@ 1.2e+04     0.0e+00\n");
}

TEST(TextHeatmap, EveryNumberType) {
    const std::string text = text_of(Tensor<float, 2>({1, 2}, {0.5f, 1.0f}));
    EXPECT_EQ(text_of(Tensor<double, 2>({1, 2}, {0.5, 1.0})), text);
    EXPECT_EQ(text_of(Tensor<heed::half, 2>({1, 2}, {heed::half(0.5f), heed::half(1.0f)})), text);
}

TEST(TextHeatmap, AnyStrides) {
    const Tensor<float, 2> values({2, 2}, {0, 1, 0.5f, 0.25f});
    EXPECT_EQ(text_of(values.view().transpose(0, 1)),
              text_of(Tensor<float, 2>({2, 2}, {0, 0.5f, 1, 0.25f})));
}

TEST(TextHeatmap, TheRangeMayBeGiven) {
    const Tensor<float, 2> values({1, 3}, {0.5f, 1.0f, 2.0f});
    EXPECT_EQ(text_of(values, {.low = 0.5, .high = 1.0}), "     0.50  @@ 1.00  @@ 2.00\n");
}

TEST(TextHeatmap, EmptyMatrices) {
    EXPECT_EQ(text_of(Tensor<float, 2>({0, 3}), {.title = "none"}), "none\n");
    EXPECT_EQ(text_of(Tensor<float, 2>({2, 0})), "\n\n");
}

TEST(TextHeatmap, Errors) {
    const auto print = [](const HeatmapOptions& options) {
        return [options] { (void)text_of(causal(), options); };
    };
    EXPECT_THAT(print({.row_labels = {"one"}}),
                ThrowsMessage<ShapeError>("[print_heatmap] there must be one label for each row, "
                                          "or none; found 1 for 3"));
    EXPECT_THAT(print({.column_labels = {"1", "2", "3", "4"}}),
                ThrowsMessage<ShapeError>("[print_heatmap] there must be one label for each "
                                          "column, or none; found 4 for 3"));
    EXPECT_THAT(print({.low = 1.0, .high = 1.0}),
                ThrowsMessage<ArgumentError>(StartsWith("[print_heatmap] low must be below")));
    EXPECT_THROW(print({.high = std::numeric_limits<double>::infinity()})(), ArgumentError);
    EXPECT_THROW(print({.low = std::numeric_limits<double>::quiet_NaN()})(), ArgumentError);
}

TEST(ColourMap, GetsLighterInEvenSteps) {
    // CIE lightness L* from the relative luminance of sRGB.
    const auto lightness = [](Rgb c) {
        const auto linear = [](double x) {
            x /= 255;
            return x <= 0.04045 ? x / 12.92 : std::pow((x + 0.055) / 1.055, 2.4);
        };
        const double luminance =
            0.2126 * linear(c.red) + 0.7152 * linear(c.green) + 0.0722 * linear(c.blue);
        return 116 * std::cbrt(luminance) - 16;
    };
    const double dark = lightness(heed::colour_of(0)), light = lightness(heed::colour_of(1));
    EXPECT_LT(dark, 20);
    EXPECT_GT(light, 85);
    for (int step = 0; step <= 100; ++step) {
        const double even = dark + (light - dark) * step / 100;
        EXPECT_NEAR(lightness(heed::colour_of(step / 100.0)), even, 3.5) << step;
    }
}

TEST(ColourMap, NumbersOutside) {
    EXPECT_EQ(heed::colour_of(-1), heed::colour_of(0));
    EXPECT_EQ(heed::colour_of(1e300), heed::colour_of(1));
    EXPECT_EQ(heed::colour_of(-std::numeric_limits<double>::infinity()), heed::colour_of(0));
    EXPECT_NE(heed::colour_of(std::numeric_limits<double>::quiet_NaN()), heed::colour_of(0));
}

/// The pixels of a PNG file, as another decoder sees them.
class Decoded {
  public:
    explicit Decoded(const std::filesystem::path& path) {
        int channels = 0;
        unsigned char* pixels = stbi_load(path.c_str(), &width, &height, &channels, 3);
        if (pixels == nullptr) throw std::runtime_error("no PNG");
        pixels_.assign(pixels, pixels + width * height * 3);
        stbi_image_free(pixels);
    }

    Rgb at(Index x, Index y) const {
        const auto i = static_cast<std::size_t>(3 * (y * width + x));
        return {pixels_[i], pixels_[i + 1], pixels_[i + 2]};
    }

    std::size_t count(Rgb colour) const {
        std::size_t found = 0;
        for (Index y = 0; y < height; ++y)
            for (Index x = 0; x < width; ++x) found += at(x, y) == colour ? 1 : 0;
        return found;
    }

    int width = 0;
    int height = 0;

  private:
    std::vector<unsigned char> pixels_;
};

constexpr Rgb white{255, 255, 255};
constexpr Rgb ink{0x22, 0x22, 0x22};

TEST(PngHeatmap, EveryElementIsASquareOfItsColour) {
    const TemporaryFolder folder;
    const Tensor<float, 2> values({2, 3}, {0, 0.5f, 1, 0.25f, 0.75f, nan});
    heed::write_heatmap_png(folder / "map.png", values, {.cell_pixels = 10});
    const files::Bytes file = files::read(folder / "map.png");
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data()), 8), "\x89PNG\r\n\x1a\n");
    const Decoded picture(folder / "map.png");
    // The margin is 20 pixels.
    for (Index i = 0; i < 2; ++i)
        for (Index j = 0; j < 3; ++j) {
            const Rgb colour = heed::colour_of(values(i, j));
            EXPECT_EQ(picture.at(20 + 10 * j, 20 + 10 * i), colour) << i << j;
            EXPECT_EQ(picture.at(29 + 10 * j, 29 + 10 * i), colour) << i << j;
        }
    EXPECT_EQ(picture.at(0, 0), white);
    EXPECT_EQ(picture.at(18, 25), white);
    EXPECT_EQ(picture.at(picture.width - 1, picture.height - 1), white);
}

TEST(PngHeatmap, LargeCellsShowTheirNumber) {
    const TemporaryFolder folder;
    const Tensor<float, 2> values({1, 2}, {0, 1});
    heed::write_heatmap_png(folder / "map.png", values, {.cell_pixels = 64});
    const Decoded picture(folder / "map.png");
    EXPECT_GT(picture.count({0, 0, 0}), 50u);  // on the light cell; nothing else is black
}

TEST(PngHeatmap, LabelsAndTitleTakeRoomAndInk) {
    const TemporaryFolder folder;
    heed::write_heatmap_png(folder / "bare.png", causal(), {.cell_pixels = 10});
    heed::write_heatmap_png(folder / "labelled.png", causal(), [] {
        HeatmapOptions options = labelled();
        options.cell_pixels = 10;
        return options;
    }());
    const Decoded bare(folder / "bare.png"), full(folder / "labelled.png");
    EXPECT_GT(full.width, bare.width);
    EXPECT_GT(full.height, bare.height);
    EXPECT_GT(full.count(ink), bare.count(ink) + 200);
}

TEST(PngHeatmap, GridHasATileForEachHead) {
    const TemporaryFolder folder;
    Tensor<float, 3> heads({8, 4, 4});
    for (Index h = 0; h < 8; ++h)
        heed::fill(heads.view().select(0, h), static_cast<float>(h) / 7.0f);
    heed::write_heatmap_grid_png(folder / "grid.png", heads, {.cell_pixels = 10});
    const Decoded picture(folder / "grid.png");
    for (Index h = 0; h < 8; ++h)
        EXPECT_GE(picture.count(heed::colour_of(static_cast<double>(heads(h, 0, 0)))), 1600u) << h;
    // Four across and two down: the last head ends the second row.
    EXPECT_EQ(picture.at(20 + 3 * (40 + 24), 20), heed::colour_of(3.0 / 7.0));
    EXPECT_GT(picture.width, picture.height);
}

TEST(PngHeatmap, TheSameNumbersMakeTheSameBytes) {
    const TemporaryFolder folder;
    heed::write_heatmap_png(folder / "a.png", causal(), labelled());
    heed::write_heatmap_png(folder / "b.png", causal(), labelled());
    EXPECT_EQ(files::read(folder / "a.png"), files::read(folder / "b.png"));
}

TEST(PngHeatmap, AnyLabelCanBeDrawn) {
    const TemporaryFolder folder;
    std::string all;
    for (int letter = 1; letter < 256; ++letter) all += static_cast<char>(letter);
    for (const std::string& label :
         {std::string(), all, std::string("▁the Ġcat 注意 🙂"), std::string(5000, '@')}) {
        heed::write_heatmap_png(folder / "map.png", Tensor<float, 2>({1, 1}, {1}),
                                {.title = label, .row_labels = {label}, .column_labels = {label}});
        EXPECT_GT(Decoded(folder / "map.png").width, 20);
    }
}

TEST(PngHeatmap, EmptyMatricesAreEmptyPictures) {
    const TemporaryFolder folder;
    heed::write_heatmap_png(folder / "map.png", Tensor<float, 2>({0, 0}));
    heed::write_heatmap_grid_png(folder / "map.png", Tensor<float, 3>({0, 2, 2}));
    heed::write_heatmap_grid_png(folder / "map.png", Tensor<float, 3>({3, 0, 2}));
    EXPECT_GT(Decoded(folder / "map.png").width, 40);
}

TEST(PngHeatmap, Errors) {
    const TemporaryFolder folder;
    const auto write = [&](const HeatmapOptions& options) {
        return [&folder, options] {
            heed::write_heatmap_grid_png(folder / "x.png", Tensor<float, 3>({2, 3, 4}), options);
        };
    };
    EXPECT_THAT(write({.row_labels = {"a"}}),
                ThrowsMessage<ShapeError>(StartsWith("[write_heatmap_grid_png] there must be one "
                                                     "label for each row")));
    EXPECT_THAT(write({.column_labels = {"a"}}), testing::Throws<ShapeError>());
    EXPECT_THAT(write({.head_labels = {"a"}}), testing::Throws<ShapeError>());
    EXPECT_THAT(write({.low = 2.0, .high = 1.0}), testing::Throws<ArgumentError>());
    EXPECT_THAT(write({.cell_pixels = -1}), testing::Throws<ArgumentError>());
    EXPECT_THAT(write({.cell_pixels = Index{1} << 40}), testing::Throws<ArgumentError>());
    // 10,000 x 10,000 elements need more than 2^26 pixels; a stride of 0 repeats one number.
    const float zero = 0;
    const heed::TensorView<const float, 2> huge(&zero, {10'000, 10'000}, {0, 0});
    EXPECT_THAT([&] { heed::write_heatmap_png(folder / "x.png", huge); },
                ThrowsMessage<ArgumentError>(
                    StartsWith("[write_heatmap_png] a picture may have 2^26 pixels; found ")));
    EXPECT_THAT([&] { heed::write_heatmap_png(folder / "no/such/folder.png", causal()); },
                ThrowsMessage<FormatError>(StartsWith("[write_heatmap_png] the file must be")));
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
