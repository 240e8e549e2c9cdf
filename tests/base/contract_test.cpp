// How does heed refuse? The error family, the text of an error, and the version macro.

#include "heed/base/contract.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "heed/tensor/shape.hpp"

namespace {

using ::testing::HasSubstr;

template <class Kind, class... Parts>
std::string message_of(std::string_view where, const Parts&... parts) {
    try {
        heed::detail::fail<Kind>(where, parts...);
    } catch (const Kind& error) {
        return error.what();
    }
}

TEST(Contract, EveryErrorIsAnErrorAndARuntimeError) {
    static_assert(std::is_base_of_v<std::runtime_error, heed::Error>);
    static_assert(std::is_base_of_v<heed::Error, heed::ShapeError>);
    static_assert(std::is_base_of_v<heed::Error, heed::ArgumentError>);
    static_assert(std::is_base_of_v<heed::Error, heed::FormatError>);
    EXPECT_THROW(heed::detail::fail<heed::ShapeError>("f", "rule"), std::runtime_error);
}

TEST(Contract, ErrorKindsAreTold) {
    // A handler for one kind must not swallow another.
    static_assert(!std::is_base_of_v<heed::ShapeError, heed::ArgumentError>);
    static_assert(!std::is_base_of_v<heed::ArgumentError, heed::ShapeError>);
    static_assert(!std::is_base_of_v<heed::ShapeError, heed::FormatError>);
    static_assert(!std::is_base_of_v<heed::ArgumentError, heed::FormatError>);
}

TEST(Contract, TextNamesFunctionRuleAndFoundValue) {
    EXPECT_EQ(message_of<heed::ShapeError>("attend", "kv_heads must divide heads; found heads ", 6,
                                           ", kv_heads ", std::int64_t{4}),
              "[attend] kv_heads must divide heads; found heads 6, kv_heads 4");
}

TEST(Contract, TextOfEveryKindOfPart) {
    EXPECT_EQ(heed::detail::text("literal"), "literal");
    EXPECT_EQ(heed::detail::text(std::string("string")), "string");
    EXPECT_EQ(heed::detail::text(std::string_view("view")), "view");
    EXPECT_EQ(heed::detail::text(true), "true");
    EXPECT_EQ(heed::detail::text(false), "false");
    EXPECT_EQ(heed::detail::text(-7), "-7");
    EXPECT_EQ(heed::detail::text(std::numeric_limits<std::uint64_t>::max()),
              "18446744073709551615");
    EXPECT_EQ(heed::detail::text(std::numeric_limits<std::int64_t>::min()), "-9223372036854775808");
    EXPECT_EQ(heed::detail::text(heed::Shape<3>(2, 0, 4)), "[2, 0, 4]");
}

// A found value must not read like an allowed one: with six decimals 1.0000001 would be "1.000000".
TEST(Contract, TextOfAFloatingPointValueTellsItFromItsNeighbour) {
    EXPECT_EQ(heed::detail::text(0.5), "0.5");
    EXPECT_NE(heed::detail::text(1.0 + 1e-7), heed::detail::text(1.0));
    EXPECT_NE(heed::detail::text(-1e-9), heed::detail::text(0.0));
    const double next = std::nextafter(1.0, 2.0);
    EXPECT_EQ(std::stod(heed::detail::text(next)), next);
    EXPECT_THAT(heed::detail::text(std::numeric_limits<double>::quiet_NaN()), HasSubstr("nan"));
    EXPECT_THAT(heed::detail::text(-std::numeric_limits<double>::infinity()), HasSubstr("-inf"));
}

TEST(Contract, NonnegativeNumbers) {
    using heed::detail::require_nonnegative;
    EXPECT_EQ(require_nonnegative("f", "epsilon", 0.0), 0.0);
    EXPECT_EQ(require_nonnegative("f", "epsilon", 2.5), 2.5);
    for (const double value : {-1.0, std::numeric_limits<double>::infinity(),
                               std::numeric_limits<double>::quiet_NaN()}) {
        try {
            (void)require_nonnegative("f", "epsilon", value);
            ADD_FAILURE() << value;
        } catch (const heed::ArgumentError& error) {
            EXPECT_EQ(
                std::string(error.what()),
                "[f] epsilon must be finite and 0 or more; found " + heed::detail::text(value));
        }
    }
}

TEST(Config, VersionComparesByPart) {
    static_assert(HEED_VERSION_AT_LEAST(0, 0, 0));
    static_assert(
        HEED_VERSION_AT_LEAST(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH));
    static_assert(
        !HEED_VERSION_AT_LEAST(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH + 1));
    static_assert(!HEED_VERSION_AT_LEAST(HEED_VERSION_MAJOR, HEED_VERSION_MINOR + 1, 0));
    static_assert(!HEED_VERSION_AT_LEAST(HEED_VERSION_MAJOR + 1, 0, 0));
}

}  // namespace
