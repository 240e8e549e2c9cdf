#include "heed/base/isa.hpp"

#include <gtest/gtest.h>

namespace {

using heed::Isa;

TEST(Isa, NamesAreReadBack) {
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
        EXPECT_EQ(heed::isa_from_name(heed::isa_name(isa)), isa);
    EXPECT_THROW((void)heed::isa_from_name("avx"), heed::ArgumentError);
    EXPECT_THROW((void)heed::isa_from_name(""), heed::ArgumentError);
}

TEST(Isa, EveryProcessorHasTheBaseline) {
    EXPECT_TRUE(heed::isa_is_supported(Isa::baseline));
}

TEST(Isa, ChoiceIsInForceUntilTheNext) {
    const Isa before = heed::current_isa();
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
        if (heed::isa_is_supported(isa)) {
            heed::use_isa(isa);
            EXPECT_EQ(heed::current_isa(), isa);
        } else {
            const Isa kept = heed::current_isa();
            EXPECT_THROW(heed::use_isa(isa), heed::ArgumentError);
            EXPECT_EQ(heed::current_isa(), kept);
        }
    }
    heed::use_isa(before);
}

}  // namespace
