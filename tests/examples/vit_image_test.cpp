// Pictures on their way into the vision transformer of examples/04_vit: read from files, resized,
// cut and normalised as Pillow, torchvision and timm do it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "04_vit/image.hpp"
#include "04_vit/preprocess.hpp"
#include "04_vit/resample.hpp"
#include "support/golden.hpp"
#include "support/random.hpp"
#include "support/temporary_folder.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"

namespace vit {
namespace {

using heed::FormatError;
using heed::Shape;
using heed::Tensor;
using support::error_text;
using support::GoldenCase;
using support::GoldenFile;
using testing::AllOf;
using testing::HasSubstr;

const GoldenFile& golden_file() {
    static const GoldenFile file("vit_images");
    return file;
}

/// The cases that have an input of that name.
std::vector<GoldenCase> cases_with(const std::string& input) {
    std::vector<GoldenCase> cases;
    for (const std::string& name : golden_file().cases()) {
        const GoldenCase golden(golden_file(), name);
        if (golden.find_input(input) != nullptr) cases.push_back(golden);
    }
    return cases;
}

ImageView view_of(const heed::AnyTensor& tensor) {
    return tensor.view<std::uint8_t, 3>();
}

/// The largest difference of two pictures, in steps of their 256.
int difference(ImageView a, ImageView b) {
    int largest = 0;
    for (Index y = 0; y < a.extent(0); ++y)
        for (Index x = 0; x < a.extent(1); ++x)
            for (Index c = 0; c < 3; ++c)
                largest = std::max(largest, std::abs(a(y, x, c) - b(y, x, c)));
    return largest;
}

// --- Resizing, cutting, normalising

TEST(VitPreprocess, SquaresArePillowsByteForByte) {
    const auto cases = cases_with("picture");
    ASSERT_GE(cases.size(), 12u);
    for (const GoldenCase& golden : cases) {
        SCOPED_TRACE(golden.name());
        const Index size = golden.integer("size");
        const Image square = centre_square(view_of(golden.input("picture")), size,
                                           resized_side(size, golden.real("crop_pct").value()));
        ASSERT_EQ(square.shape(), Shape<3>(size, size, 3));
        EXPECT_EQ(difference(square, view_of(golden.output("square"))), 0);
    }
}

TEST(VitPreprocess, NormalisedValuesAreTorchvisionsBitForBit) {
    for (const GoldenCase& golden : cases_with("picture")) {
        SCOPED_TRACE(golden.name());
        const ImageView square = view_of(golden.output("square"));
        Tensor<float, 3> found({Index{3}, square.extent(0), square.extent(1)});
        normalise(square, golden.flag("imagenet") ? imagenet : inception, found);
        const Tensor<float, 3> expected = golden.output("normalised").to<float, 3>();
        const auto verdict = support::compare_bits(found.values(), expected.values());
        EXPECT_TRUE(verdict) << verdict.message;
    }
}

// Counter-checks: the nearest alternatives are not the same.
TEST(VitPreprocess, OtherSquaresAreNoticed) {
    const GoldenCase golden(golden_file(), "half_to_even_up");
    const ImageView picture = view_of(golden.input("picture"));
    const ImageView square = view_of(golden.output("square"));
    EXPECT_EQ(difference(picture.slice(1, 4, 16), square), 0);  // 3.5 pixels in: 4
    EXPECT_GT(difference(picture.slice(1, 3, 16), square), 0);
    const GoldenCase even(golden_file(), "half_to_even_down");
    EXPECT_EQ(difference(view_of(even.input("picture")).slice(1, 2, 16),  // 2.5 pixels in: 2
                         view_of(even.output("square"))),
              0);
    const GoldenCase portrait(golden_file(), "portrait");
    const auto cut_at = [&](Index side) {
        return difference(centre_square(view_of(portrait.input("picture")), 16, side),
                          view_of(portrait.output("square")));
    };
    EXPECT_EQ(cut_at(17), 0);
    EXPECT_GT(cut_at(18), 0);
}

TEST(VitResize, APartIsThatPartOfTheWhole) {
    const GoldenCase golden(golden_file(), "landscape");
    const ImageView picture = view_of(golden.input("picture"));
    for (const auto& [height, width] : {std::pair{9, 11}, {30, 40}, {55, 70}, {30, 13}}) {
        const Image whole = resize(picture, {.size = height}, {.size = width});
        for (Index y = 0; y + 4 <= height; y += 3) {
            const Image part = resize(picture, {height, y, 4}, {width, 2, 7});
            EXPECT_EQ(difference(part, whole.view().slice(0, y, 4).slice(1, 2, 7)), 0);
        }
    }
}

TEST(VitResize, WhatIsEvenStaysEven) {
    Image grey({5, 9, 3});
    heed::fill(grey.view(), 201);
    for (const Index size : {1, 4, 9, 40}) {
        const Image resized = resize(grey, {.size = size}, {.size = size + 1});
        for (const std::uint8_t value : resized.values()) ASSERT_EQ(value, 201);
    }
    Tensor<double, 3> half({3, 4, 2});
    heed::fill(half.view(), 0.5);
    const Tensor<double, 3> resized = resize<double>(half, 7, 2);
    for (const double value : resized.values()) EXPECT_DOUBLE_EQ(value, 0.5);
}

TEST(VitResize, EmptyAndOutsideIsRefused) {
    const Image picture({4, 6, 3});
    const auto refused = [](ImageView view, const Part& rows, const Part& columns) {
        EXPECT_THAT(error_text<heed::ShapeError>([&] { (void)resize(view, rows, columns); }),
                    HasSubstr("[resize]"));
    };
    refused(picture, {.size = 0}, {.size = 3});
    refused(picture, {.size = 3}, {.size = 5, .begin = 3, .count = 3});
    refused(picture, {.size = 3, .begin = -1, .count = 2}, {.size = 3});
    refused(picture.view().slice(0, 0, 0), {.size = 3}, {.size = 3});
}

TEST(VitPreprocess, SizesThatDoNotFitAreRefused) {
    EXPECT_EQ(resized_side(224, 0.9), 248);
    EXPECT_EQ(resized_side(224, 0.875), 256);
    EXPECT_EQ(resized_side(384, 1.0), 384);
    for (const double crop_pct : {0.0, -0.5, 1.01, 1e-9, std::nan("")})
        EXPECT_THROW((void)resized_side(224, crop_pct), heed::ArgumentError) << crop_pct;
    EXPECT_THROW((void)resized_side(0, 0.9), heed::ArgumentError);
    EXPECT_THROW((void)centre_square(Image({4, 4, 3}), 8, 7), heed::ShapeError);
    EXPECT_THROW((void)centre_square(Image({0, 4, 3}), 8, 8), heed::ShapeError);
    Tensor<float, 3> target({3, 4, 4});
    EXPECT_THROW(normalise(Image({4, 5, 3}), inception, target), heed::ShapeError);
}

// A shape that would need gigabytes if all of it were resized.
TEST(VitPreprocess, LongStripsCostLittle) {
    const Image strip({1, 20000, 3});
    EXPECT_EQ(centre_square(strip, 224, 248).shape(), Shape<3>(224, 224, 3));
    EXPECT_EQ(centre_square(strip.view().transpose(0, 1), 224, 248).shape(), Shape<3>(224, 224, 3));
}

// --- Files

std::span<const std::byte> bytes_of(const GoldenCase& golden) {
    return golden.input("file").bytes();
}

/// JPEG's standard leaves each decoder a last digit: one step in a component before, and one by
/// rounding after the change of colours, whose largest factor is 1.772.
constexpr int jpeg_tolerance = 3;

TEST(VitFiles, PicturesAreThoseThatPillowReads) {
    const auto cases = cases_with("file");
    ASSERT_GE(cases.size(), 13u);
    for (const GoldenCase& golden : cases) {
        SCOPED_TRACE(golden.name());
        const Image found = decode_image(bytes_of(golden));
        const ImageView expected = view_of(golden.output("picture"));
        ASSERT_EQ(found.shape(), expected.shape());
        const bool jpeg = golden.name().starts_with("jpeg");
        EXPECT_LE(difference(found, expected), jpeg ? jpeg_tolerance : 0);
    }
}

TEST(VitFiles, WhatIsWrittenIsReadAgain) {
    const support::TemporaryFolder folder;
    support::Random random;
    SCOPED_TRACE(random.describe());
    Image picture({13, 7, 3});
    for (std::uint8_t& value : picture.values())
        value = static_cast<std::uint8_t>(random.integer(0, 255));
    write_png(folder / "picture.png", picture);
    EXPECT_EQ(difference(read_image(folder / "picture.png"), picture), 0);
    write_png(folder / "turned.png", picture.view().transpose(0, 1));
    EXPECT_EQ(difference(read_image(folder / "turned.png"), picture.view().transpose(0, 1)), 0);
}

std::string refusal(std::span<const std::byte> bytes) {
    return error_text<FormatError>([&] { (void)decode_image(bytes, " in 'it'"); });
}

std::vector<std::byte> bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

TEST(VitFiles, WhatIsNoPictureIsRefused) {
    EXPECT_THAT(refusal({}), AllOf(HasSubstr("PNG or JPEG"), HasSubstr("in 'it'")));
    EXPECT_THAT(refusal(bytes_of("just a text\n")), HasSubstr("PNG or JPEG"));
    EXPECT_THAT(refusal(bytes_of("GIF89a\1\0\1\0\0\0\0;")), HasSubstr("PNG or JPEG"));
    EXPECT_THAT(refusal(bytes_of("BM")), HasSubstr("PNG or JPEG"));
    // Headers of PNG files, and nothing else: of 65535 x 65535 pixels, which stb refuses, and of
    // 16384 x 8192.
    const auto header = [](std::string_view size) {
        return bytes_of("\x89PNG\r\n\x1a\n" + std::string("\0\0\0\rIHDR", 8) + std::string(size) +
                        std::string("\x8\x2\0\0\0abcd", 9));
    };
    EXPECT_THAT(refusal(header({"\0\0\xff\xff\0\0\xff\xff", 8})), HasSubstr("2^26 pixels"));
    EXPECT_THAT(refusal(header({"\0\0\x40\0\0\0\x20\0", 8})),
                AllOf(HasSubstr("2^26 pixels"), HasSubstr("16384 x 8192")));
}

TEST(VitFiles, PathsThatCannotBeReadAreRefused) {
    const support::TemporaryFolder folder;
    const auto text = [](const std::filesystem::path& path) {
        return error_text<FormatError>([&] { (void)read_image(path); });
    };
    EXPECT_THAT(text(folder / "none.png"), AllOf(HasSubstr("regular file"), HasSubstr("none.png")));
    EXPECT_THAT(text(folder.path()), HasSubstr("regular file"));
    EXPECT_THAT(text("/dev/null"), HasSubstr("regular file"));
    std::ofstream(folder / "empty.png").close();
    EXPECT_THAT(text(folder / "empty.png"),
                AllOf(HasSubstr("PNG or JPEG"), HasSubstr("empty.png")));
    const Image picture({2, 2, 3});
    EXPECT_THAT(error_text<FormatError>([&] { write_png(folder / "no" / "way.png", picture); }),
                AllOf(HasSubstr("[write_png]"), HasSubstr("way.png")));
    EXPECT_THROW(write_png(folder.path(), picture), FormatError);
}

// A file that was cut anywhere is refused; but for the end of a PNG, which nobody needs.
TEST(VitFiles, CutFilesAreRefused) {
    for (const GoldenCase& golden : cases_with("file")) {
        SCOPED_TRACE(golden.name());
        const auto file = bytes_of(golden);
        const bool jpeg = golden.name().starts_with("jpeg");
        // Versions of stb differ in whether they tell this.
        if (jpeg) {
            EXPECT_THAT(refusal(file.first(file.size() - 1)), HasSubstr("no end of the JPEG"));
        }
        const std::size_t needed = file.size() - (jpeg ? 0 : 12);
        for (std::size_t size = 0; size < needed; ++size) {
            const auto part = file.first(size);
            ASSERT_THROW((void)decode_image(part), FormatError) << size << " of " << file.size();
        }
    }
}

// A table of codes with more entries than there are bytes, which old versions of stb write beyond
// their memory. The marker before the file's first one may be filled up with bytes of ones.
TEST(VitFiles, TablesThatAreTooLongAreRefused) {
    const GoldenCase golden(golden_file(), "jpeg");
    const auto file = bytes_of(golden);
    std::vector<std::byte> filled(file.begin(), file.end());
    filled.insert(filled.begin(), std::byte{0xFF});
    EXPECT_EQ(difference(decode_image(filled), decode_image(file)), 0);
    const std::vector<std::byte> marker{std::byte{0xFF}, std::byte{0xC4}};
    const auto table = std::search(filled.begin(), filled.end(), marker.begin(), marker.end()) + 4;
    table[16] = std::byte{250};  // codes of 16 bits, beside the 12 that this table has
    EXPECT_THAT(refusal(filled), AllOf(HasSubstr("may have 256"), HasSubstr("found 262")));
}

// Whatever a damaged file holds, it is a picture or a FormatError.
TEST(VitFiles, DamagedFilesDoNoHarm) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    int pictures = 0, refused = 0;
    for (const GoldenCase& golden : cases_with("file"))
        for (int round = 0; round < 300; ++round) {
            const auto file = bytes_of(golden);
            std::vector<std::byte> damaged(file.begin(), file.end());
            for (auto errors = random.integer(1, 4); errors > 0; --errors)
                damaged[static_cast<std::size_t>(random.integer(0, std::ssize(file) - 1))] =
                    static_cast<std::byte>(random.integer(0, 255));
            try {
                const Image image = decode_image(damaged);
                ++pictures;
            } catch (const FormatError&) {
                ++refused;
            }
        }
    EXPECT_GT(pictures, 100);
    EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace vit
