// Bugs that other loaders had, one test each; the numbers are those of the collection they are in.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "heed/io/safetensors.hpp"
#include "io/files.hpp"
#include "support/allocation_counter.hpp"

namespace {

using files::Bytes;
using files::TemporaryFolder;
using heed::FormatError;
using heed::NamedTensors;
using heed::Tensor;
using testing::HasSubstr;

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
           "],\"data_offsets\":[" + offsets + "]}";
}

/// Expects a refusal whose text has this in it, before more memory is taken than the file has
/// (the text of the error and the parser's own small change apart).
void expect_refused(const Bytes& file, const std::string& text) {
    SCOPED_TRACE(text);
    const support::AllocationCounter counter;
    try {
        (void)heed::read_safetensors(file);
        ADD_FAILURE() << "it was read";
    } catch (const FormatError& error) {
        EXPECT_LE(counter.bytes(), 20 * file.size() + 20'000);
        EXPECT_THAT(error.what(), HasSubstr(text));
        EXPECT_THAT(error.what(), testing::StartsWith("[read_safetensors] "));
        EXPECT_THAT(error.what(), HasSubstr("; found "));
    }
}

void expect_refused(const std::string& header, const std::string& data, const std::string& text) {
    expect_refused(files::safetensors(header, data), text);
}

/// Runs on a thread with a stack of 256 KiB.
void on_small_stack(std::function<void()> work) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    ASSERT_EQ(pthread_attr_setstacksize(&attributes, 256 * 1024), 0);
    pthread_t thread;
    const auto run = [](void* argument) -> void* {
        (*static_cast<std::function<void()>*>(argument))();
        return nullptr;
    };
    ASSERT_EQ(pthread_create(&thread, &attributes, run, &work), 0);
    pthread_join(thread, nullptr);
    pthread_attr_destroy(&attributes);
}

TEST(Museum, B8_78_DataAtAnyAddress) {
    // The header's length decides the phase of the data in the file; the buffer's start adds to it.
    for (std::size_t blanks = 0; blanks < 8; ++blanks) {
        std::string data(12, '\0');
        const double number = 0.1;
        const float other = 0.7f;
        std::memcpy(data.data(), &number, 8);
        std::memcpy(data.data() + 8, &other, 4);
        const Bytes file =
            files::safetensors("{" + entry("d", "F64", "1", "0,8") + "," +
                                   entry("f", "F32", "1", "8,12") + "}" + std::string(blanks, ' '),
                               data);
        for (std::size_t start = 0; start < 8; ++start) {
            Bytes shifted(start);
            shifted.insert(shifted.end(), file.begin(), file.end());
            const NamedTensors tensors = heed::read_safetensors(std::span(shifted).subspan(start));
            EXPECT_EQ((tensors.view<double, 1>("d")(0)), number);
            EXPECT_EQ((tensors.view<float, 1>("f")(0)), other);
        }
    }
}

TEST(Museum, B9_79_ShapeProductWraps) {
    for (const char* shape :
         {"4294967296,4294967296", "9223372036854775807,2", "4611686018427387904,4",
          "3037000500,3037000500", "0,4294967296,4294967296"})
        expect_refused("{" + entry("w", "F32", shape, "0,4") + "}", "data",
                       "a tensor's bytes must fit into 63 bits; found 'w' of shape [");
    expect_refused("{" + entry("w", "F32", "4294967296,4294967296", "0,1000000") + "}", "",
                   "a tensor must lie inside the data");
    expect_refused("{" + entry("w", "F32", "9223372036854775808", "0,0") + "}", "",
                   "a shape must hold whole numbers below 2^63");
}

TEST(Museum, B9_80_OffsetsDisagreeWithShapeAndType) {
    expect_refused("{" + entry("w", "F32", "1000,1000", "0,4") + "}", "data",
                   "data_offsets must agree with dtype and shape; found 'w' at [0, 4), but 4000000 "
                   "bytes by shape [1000, 1000]");
    expect_refused("{" + entry("w", "F64", "1", "0,4") + "}", "data", "must agree");
    expect_refused("{" + entry("w", "F32", "0", "0,4") + "}", "data", "must agree");
    expect_refused("{" + entry("w", "F32", "1", "0,0") + "}", "", "must agree");
    expect_refused("{" + entry("w", "U8", "5", "0,4") + "}", "data", "must agree");
}

TEST(Museum, B9_81_OffsetsOutsideTheData) {
    const auto with = [](const char* offsets) {
        return "{" + entry("w", "U8", "4", offsets) + "}";
    };
    expect_refused(with("-4,0"), "data",
                   "data_offsets must be two whole numbers; found a negative");
    expect_refused(with("4,0"), "data", "a tensor must lie inside the data");
    expect_refused(with("0,5"), "data", "a tensor must lie inside the data");
    expect_refused(with("4,8"), "data", "a tensor must lie inside the data");
    expect_refused(with("18446744073709551612,18446744073709551615"), "data", "must lie inside");
    expect_refused(with("18446744073709551616,4"), "data", "beyond 64 bits");
    expect_refused(with("0"), "data", "data_offsets must be two whole numbers; found 1");
    expect_refused(with(""), "data", "data_offsets must be two whole numbers; found 0");
    expect_refused(with("0,4,4"), "data",
                   "data_offsets must be two whole numbers; found the number");
}

TEST(Museum, B9_82_HeaderLengthNearTheEndOfTheNumbers) {
    const std::string header = "{" + entry("w", "U8", "4", "0,4") + "}";
    const std::uint64_t size = 8 + header.size() + 4;
    std::vector<std::uint64_t> lengths{std::uint64_t{1} << 63, 100'000'001, size - 7};
    for (std::uint64_t i = 0; i < 16; ++i)
        lengths.push_back(std::numeric_limits<std::uint64_t>::max() - i);
    const TemporaryFolder folder;
    for (std::uint64_t length : lengths) {
        const Bytes file = files::safetensors(header, "data", length);
        const std::string text =
            "the header must fit into the file and into 100,000,000 bytes; "
            "found length " +
            std::to_string(length);
        const support::AllocationCounter counter;
        expect_refused(file, text);
        EXPECT_LT(counter.bytes(), 4000u);
        files::write(folder / "file", file);
        EXPECT_THROW((void)heed::read_safetensors(folder / "file"), FormatError);
    }
    // The last length that fits leaves no data, and takes the data for header.
    expect_refused(files::safetensors(header, "data", size - 8), "the header must be JSON");
    EXPECT_NO_THROW((void)heed::read_safetensors(files::safetensors(header, "data")));
}

TEST(Museum, B9_82_FileShorterThanItsLength) {
    for (std::size_t size = 0; size < 8; ++size)
        expect_refused(Bytes(size), "a file must begin with 8 bytes of header length");
    expect_refused(Bytes(8), "the header must begin with '{'; found nothing");
}

TEST(Museum, B9_83_UnknownTypes) {
    for (const char* dtype : {"Q9", "f32", "F32 ", "", "F4", "COMPLEX64"})
        expect_refused("{" + entry("w", dtype, "1", "0,4") + "}", "data",
                       "a dtype must be one that heed knows; found '" + std::string(dtype));
}

TEST(Museum, B9_83_NumbersAreNeverDoubles) {
    // 2^53 + 1 is no double; rounded, the message would tell of 2^53.
    expect_refused("{" + entry("w", "U8", "1", "0,9007199254740993") + "}", "d",
                   "found 'w' at [0, 9007199254740993) of 1 bytes");
    for (const char* number : {"1.0", "1e0", "1.5", "-0", "-1", "99999999999999999999"})
        expect_refused("{" + entry("w", "U8", number, "0,1") + "}", "d", "a shape must hold");
}

TEST(Museum, B9_84_DuplicateKeys) {
    const std::string a = entry("a", "U8", "2", "0,2"), b = entry("a", "U8", "2", "2,4");
    expect_refused("{" + a + "," + b + "}", "data", "a key must not repeat; found 'a' twice");
    expect_refused("{" + a + "," + a + "}", "da", "a key must not repeat; found 'a' twice");
    // The same key, spelled otherwise.
    expect_refused(R"({)" + a + R"(,"\u0061":{}})", "da", "a key must not repeat; found 'a' twice");
    expect_refused(R"({"w":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "",
                   "a key must not repeat; found 'dtype' twice");
    expect_refused(R"({"__metadata__":{"k":"1","k":"2"}})", "", "found 'k' twice");
    expect_refused(R"({"__metadata__":{},"__metadata__":{}})", "", "found '__metadata__' twice");
}

TEST(Museum, B9_85_Overlap) {
    std::string ten = "{";
    for (int i = 0; i < 10; ++i)
        ten += (i > 0 ? "," : "") + entry("t" + std::to_string(i), "U8", "4", "0,4");
    expect_refused(ten + "}", "data", "tensors must not overlap; found 't");
    expect_refused("{" + entry("a", "U8", "3", "0,3") + "," + entry("b", "U8", "2", "2,4") + "}",
                   "data", "tensors must not overlap; found 'b' at [2, 4), others up to 3");
    // An empty tensor inside another one has no bytes, but no place either.
    expect_refused("{" + entry("a", "U8", "4", "0,4") + "," + entry("b", "U8", "0", "2,2") + "}",
                   "data", "tensors must not overlap");
}

TEST(Museum, B9_85_Holes) {
    expect_refused("{" + entry("a", "U8", "1", "0,1") + "," + entry("b", "U8", "2", "2,4") + "}",
                   "data",
                   "tensors must follow each other without a hole; found 'b' at [2, 4), "
                   "others up to 1");
    expect_refused("{" + entry("a", "U8", "3", "1,4") + "}", "data", "without a hole");
}

TEST(Museum, B9_85_TrailingBytes) {
    const std::string header = "{" + entry("a", "U8", "4", "0,4") + "}";
    expect_refused(header, "data" + std::string(26, 'x'),
                   "tensors must fill the file; found 26 bytes behind the last");
    expect_refused(header, "data\n", "found 1 bytes behind the last");
    expect_refused("{}", "x", "found 1 bytes behind the last");
    expect_refused("{" + entry("a", "U8", "0", "0,0") + "}", "x", "found 1 bytes behind the last");
}

TEST(Museum, B9_85_TrailingHeader) {
    expect_refused(R"({}{})", "", "the header must be JSON");
    expect_refused(R"({} x)", "", "the header must be JSON");
    // Bytes that the JSON parser alone would let pass.
    expect_refused(std::string("{}\0 hidden", 10), "", "found a zero byte at 2 of it");
    expect_refused("\xEF\xBB\xBF{}", "", "the header must begin with '{'");
    expect_refused(" {}", "", "the header must begin with '{'");
    EXPECT_EQ(heed::read_safetensors(files::safetensors("{}     ")).size(), 0u);
}

TEST(Museum, B9_86_MetadataRoundTrip) {
    const TemporaryFolder folder;
    for (int tensor_count : {0, 1, 2})
        for (int text_count : {0, 1, 2}) {
            NamedTensors tensors;
            for (int i = 0; i < tensor_count; ++i)
                tensors.add("t" + std::to_string(i), Tensor<float, 1>(3));
            for (int i = 0; i < text_count; ++i)
                tensors.metadata()["key" + std::to_string(i)] = i == 0 ? "" : "value";
            write_safetensors(folder / "file", tensors);
            EXPECT_EQ(heed::read_safetensors(folder / "file"), tensors);
        }
    EXPECT_TRUE(
        heed::read_safetensors(files::safetensors(R"({"__metadata__":{}})")).metadata().empty());
}

TEST(Museum, B9_86_MetadataIsText) {
    for (const char* value : {"1", "1.5", "-1", "null", "true", "{}", "[]", "[\"a\"]"})
        expect_refused("{\"__metadata__\":{\"k\":" + std::string(value) + "}}", "",
                       "metadata must be text; found ");
    for (const char* value : {"null", "1", "\"text\"", "[]"})
        expect_refused("{\"__metadata__\":" + std::string(value) + "}", "",
                       "'__metadata__' must be an object; found ");
}

TEST(Museum, B9_87_HeaderLengthsAroundBufferEdges) {
    const TemporaryFolder folder;
    const std::string base = "{" + entry("w", "U8", "4", "0,4") + "}";
    for (std::size_t edge : {64u, 512u, 1024u, 4096u, 8192u, 16384u, 65536u, 1u << 20})
        for (std::size_t length = edge - 8; length <= edge + 8; ++length) {
            if (length < base.size()) continue;
            const std::string header = base + std::string(length - base.size(), ' ');
            const Bytes file = files::safetensors(header, "data");
            files::write(folder / "file", file);
            EXPECT_EQ(heed::read_safetensors(folder / "file").at("w").bytes().size(), 4u);
            // Cut within the header.
            files::write(folder / "file", std::span(file).first(length));
            EXPECT_THROW((void)heed::read_safetensors(folder / "file"), FormatError);
        }
}

TEST(Museum, B9_88_DeepNesting) {
    const std::string deep(100'000, '['), objects = [] {
        std::string text;
        for (int i = 0; i < 100'000; ++i) text += "{\"a\":";
        return text;
    }();
    on_small_stack([&] {
        expect_refused(deep, "", "the header must begin with '{'");
        expect_refused("{\"a\":" + deep, "", "'a' must be an object; found an array");
        expect_refused(objects, "", "a tensor has dtype, shape and data_offsets only; found 'a'");
        expect_refused("{\"a\":{\"shape\":" + deep, "", "a shape must hold");
        expect_refused("{\"a\":{\"data_offsets\":" + deep, "", "data_offsets must be two");
        expect_refused("{\"__metadata__\":{\"a\":" + deep, "", "metadata must be text");
    });
}

TEST(Museum, B9_89_ShapesOfAbsurdLength) {
    // Many extents are no harm, as long as the file pays for them.
    std::string ones = "1";
    for (int i = 0; i < 10'000; ++i) ones += ",1";
    const NamedTensors tensors =
        heed::read_safetensors(files::safetensors("{" + entry("w", "U8", ones, "0,1") + "}", "d"));
    EXPECT_EQ(tensors.at("w").shape().size(), 10'001u);
    EXPECT_THROW((void)(tensors.view<std::uint8_t, 4>("w")), FormatError);
}

TEST(Museum, UntrustedInput_AJsonParserAloneIsNotEnough) {
    // The naive reader: whatever parses is believed. The refusals above are this file's, not
    // JSON's.
    for (const std::string& header :
         {"{" + entry("a", "U8", "2", "0,2") + "," + entry("a", "U8", "2", "2,4") + "}",
          "{" + entry("w", "F32", "4294967296,4294967296", "0,0") + "}",
          "{" + entry("w", "U8", "4", "-4,0") + "}", "{" + entry("w", "Q9", "1.5", "0") + "}",
          std::string("{}\0 hidden", 10), std::string("\xEF\xBB\xBF{}"),
          std::string(R"({"__metadata__":{"k":[[[[1]]]]}})")}) {
        EXPECT_TRUE(nlohmann::json::accept(header)) << header;
        EXPECT_THROW((void)heed::read_safetensors(files::safetensors(header)), FormatError);
    }
}

TEST(Museum, UntrustedInput_HeaderThatIsNoJson) {
    for (const char* header : {"{", "}", "{\"a\"", "{\"a\":", "{\"a\":{", "{,}", "{\"a\":{},}",
                               "{a:{}}", "{'a':{}}", "{\"a\":{}//\n}", "{\"a\":{}/**/}",
                               "{\"\\x\":{}}", "{\"\\ud800\":{}}", "nul", "{\"a\":nan}"})
        EXPECT_THROW((void)heed::read_safetensors(files::safetensors(header)), FormatError)
            << header;
}

TEST(Museum, UntrustedInput_NotUtf8) {
    // A stray byte, a cut sequence, an overlong one, half a surrogate pair, beyond U+10FFFF.
    for (const char* name :
         {"\xff", "\x80", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80"}) {
        expect_refused("{" + entry(name, "U8", "0", "0,0") + "}", "", "must be JSON in UTF-8");
        expect_refused("{\"__metadata__\":{\"k\":\"" + std::string(name) + "\"}}", "",
                       "must be JSON in UTF-8");
    }
}

TEST(Museum, UntrustedInput_KeysThatNobodyKnows) {
    expect_refused(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", "",
                   "a tensor has dtype, shape and data_offsets only; found 'x' in 'w'");
    expect_refused(R"({"w":{"dtype":"U8","shape":[0]}})", "",
                   "a tensor needs dtype, shape and data_offsets; found 2 of them for 'w'");
    expect_refused(R"({"w":{}})", "", "found 0 of them for 'w'");
    expect_refused(R"({"w":{"dtype":"U8","shape":0,"data_offsets":[0,0]}})", "",
                   "dtype must be text, shape and data_offsets arrays; found the number 0");
    expect_refused(R"({"w":{"dtype":["U8"],"shape":[0],"data_offsets":[0,0]}})", "",
                   "dtype must be text");
    expect_refused(R"({"w":{"dtype":8,"shape":[0],"data_offsets":[0,0]}})", "",
                   "dtype must be text");
    expect_refused(R"({"w":{"dtype":"U8","shape":"0","data_offsets":[0,0]}})", "", "the text '0'");
    expect_refused(R"({"w":{"dtype":"U8","shape":["0"],"data_offsets":[0,0]}})", "",
                   "the text '0'");
    expect_refused(R"({"w":{"dtype":"U8","shape":[null],"data_offsets":[0,0]}})", "", "found null");
    expect_refused(R"({"w":{"dtype":"U8","shape":[true],"data_offsets":[0,0]}})", "",
                   "found true or false");
}

}  // namespace
