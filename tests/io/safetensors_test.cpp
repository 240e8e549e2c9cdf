// Does a safetensors file give back what was written, and does writing never harm what is there?

#include "heed/io/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "support/random.hpp"

namespace {

using files::Bytes;
using files::TemporaryFolder;
using heed::AnyTensor;
using heed::FormatError;
using heed::Index;
using heed::NamedTensors;
using heed::ScalarType;
using heed::Tensor;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

/// Tensors of every type and of ranks 0 to 5, an empty one among them.
NamedTensors every_type() {
    NamedTensors tensors;
    support::Random random;
    std::vector<Index> shape;
    for (std::size_t type = 0; type < heed::detail::scalar_type_facts.size(); ++type) {
        AnyTensor tensor(static_cast<ScalarType>(type), shape);
        for (std::byte& byte : tensor.bytes())
            byte = static_cast<std::byte>(random.bits() % (type == 0 ? 2 : 256));
        tensors.add("t" + std::to_string(type), tensor);
        shape.push_back(static_cast<Index>(type % 4));
        if (shape.size() > 5) shape.clear();
    }
    return tensors;
}

NamedTensors small() {
    NamedTensors tensors;
    tensors.add("a", Tensor<float, 2>({2, 2}, {1, 2, 3, 4}));
    tensors.add("b", Tensor<bool, 1>(3, {true, false, true}));
    tensors.add("c", Tensor<double, 1>(1, {0.5}));
    tensors.metadata()["format"] = "pt";
    return tensors;
}

TEST(Safetensors, RoundTripOfEveryType) {
    const TemporaryFolder folder;
    write_safetensors(folder / "all", every_type());
    EXPECT_EQ(heed::read_safetensors(folder / "all"), every_type());
}

TEST(Safetensors, FileAndMemoryAgree) {
    const TemporaryFolder folder;
    write_safetensors(folder / "all", every_type());
    EXPECT_EQ(heed::read_safetensors(files::read(folder / "all")), every_type());
}

TEST(Safetensors, ReadsAFileWrittenByHand) {
    // 1.0f is 0x3f800000, little-endian.
    const Bytes file =
        files::safetensors(R"({"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}   )",
                           std::string("\0\0\x80\x3f\0\0\0\x40", 8));
    const NamedTensors tensors = heed::read_safetensors(file);
    EXPECT_EQ((tensors.view<float, 2>("w")(0, 0)), 1.0f);
    EXPECT_EQ((tensors.view<float, 2>("w")(0, 1)), 2.0f);
}

TEST(Safetensors, WritesTheseBytes) {
    const TemporaryFolder folder;
    write_safetensors(folder / "small", small());
    // Doubles before floats before bools, so that each is aligned; blanks up to a multiple of 8.
    std::string header = R"({"__metadata__":{"format":"pt"},)"
                         R"("c":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
                         R"("a":{"dtype":"F32","shape":[2, 2],"data_offsets":[8,24]},)"
                         R"("b":{"dtype":"BOOL","shape":[3],"data_offsets":[24,27]}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const std::string data(
        "\0\0\0\0\0\0\xe0\x3f"
        "\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40"
        "\1\0\1",
        27);
    EXPECT_EQ(files::read(folder / "small"), files::safetensors(header, data));
}

TEST(Safetensors, NamesMayHoldAnything) {
    NamedTensors tensors;
    for (const char* name : {"", " ", "\"quoted\\\"", "\n\t\x01", "ünïcödé ☃ 🙂", "dtype"})
        tensors.add(name, Tensor<float, 1>(1));
    tensors.metadata()["schlüssel\n"] = "\"wert\" \\ \x1f";
    const TemporaryFolder folder;
    write_safetensors(folder / "names", tensors);
    EXPECT_EQ(heed::read_safetensors(folder / "names"), tensors);
}

TEST(Safetensors, RefusesNamesThatNoFileCanHold) {
    const TemporaryFolder folder;
    const auto write = [&](const std::string& name, const std::string& metadata) {
        NamedTensors tensors;
        tensors.add(name, Tensor<float, 1>(1));
        tensors.metadata()["key"] = metadata;
        write_safetensors(folder / "file", tensors);
    };
    EXPECT_THAT([&] { write("\xff", ""); },
                ThrowsMessage<FormatError>(StartsWith("[write_safetensors] names and metadata "
                                                      "must be UTF-8; found ")));
    EXPECT_THROW(write("ok", "\xc3\x28"), FormatError);
    EXPECT_THROW(write("__metadata__", ""), FormatError);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, ReplacesAFileInOneStep) {
    const TemporaryFolder folder;
    files::write(folder / "file", files::bytes_of("old"));
    write_safetensors(folder / "file", small());
    EXPECT_EQ(heed::read_safetensors(folder / "file"), small());
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(Safetensors, AFailedWriteLeavesEverythingAsItWas) {
    const TemporaryFolder folder;
    files::write(folder / "file", files::bytes_of("old"));
    NamedTensors bad = small();
    bad.metadata()["\xff"] = "";
    EXPECT_THROW(write_safetensors(folder / "file", bad), FormatError);
    EXPECT_EQ(files::read(folder / "file"), files::bytes_of("old"));
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);

    EXPECT_THROW(write_safetensors(folder / "no/such/folder", small()), FormatError);
    EXPECT_THROW(write_safetensors(folder.path(), small()), FormatError);
    EXPECT_THROW(write_safetensors("/dev/null", small()), FormatError);
    EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST(Safetensors, TakesAnotherNameForTheNewFileWhenOneIsTaken) {
    const TemporaryFolder folder;
    files::write(folder / "file.part0", files::bytes_of("somebody else's"));
    write_safetensors(folder / "file", small());
    EXPECT_EQ(heed::read_safetensors(folder / "file"), small());
    EXPECT_EQ(files::read(folder / "file.part0"), files::bytes_of("somebody else's"));
}

TEST(Safetensors, OnlyRegularFilesAreRead) {
    const TemporaryFolder folder;
    const auto read = [](const std::filesystem::path& path) {
        return [path] { (void)heed::read_safetensors(path); };
    };
    const auto refused = ThrowsMessage<FormatError>(
        StartsWith("[read_safetensors] there must be a regular file to read; found none at '"));
    EXPECT_THAT(read(folder / "missing"), refused);
    EXPECT_THAT(read(folder.path()), refused);
    EXPECT_THAT(read("/dev/zero"), refused);
    ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
    EXPECT_THAT(read(folder / "pipe"), refused);

    write_safetensors(folder / "file", small());
    std::filesystem::create_symlink(folder / "file", folder / "link");
    EXPECT_EQ(heed::read_safetensors(folder / "link"), small());
}

TEST(Safetensors, ErrorsNameTheFile) {
    const TemporaryFolder folder;
    files::write(folder / "short", files::bytes_of("1234567"));
    EXPECT_THAT([&] { (void)heed::read_safetensors(folder / "short"); },
                ThrowsMessage<FormatError>(
                    "[read_safetensors] a file must begin with 8 bytes of header length; "
                    "found 7 bytes in '" +
                    (folder / "short").string() + "'"));
}

TEST(Safetensors, FlagsAreZeroOrOne) {
    const auto flag = [](const std::string& byte) {
        return files::safetensors(R"({"f":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})",
                                  byte);
    };
    EXPECT_NO_THROW((void)heed::read_safetensors(flag("\x01")));
    EXPECT_THAT(
        [&] { (void)heed::read_safetensors(flag("\x02")); },
        ThrowsMessage<FormatError>("[read_safetensors] a BOOL must be 0 or 1; found 2 in 'f'"));
}

TEST(Safetensors, ErrorsShowNoControlCharactersAndNoEndlessNames) {
    const std::string name(100'000, 'x');
    const Bytes file = files::safetensors("{\"\\u001b[2J" + name + "\":7}");
    try {
        (void)heed::read_safetensors(file);
        ADD_FAILURE() << "nothing was thrown";
    } catch (const FormatError& error) {
        EXPECT_THAT(error.what(), StartsWith("[read_safetensors] '?[2Jxxx"));
        EXPECT_LT(std::string(error.what()).size(), 400u);
    }
}

#ifdef HEED_SHARED_DIR
TEST(Safetensors, FilesOfOtherWritersSurviveARoundTrip) {
    if (!std::filesystem::is_directory(HEED_SHARED_DIR)) GTEST_SKIP() << "no " HEED_SHARED_DIR;
    const TemporaryFolder folder;
    int count = 0;
    for (const auto& found : std::filesystem::recursive_directory_iterator(HEED_SHARED_DIR)) {
        if (found.path().extension() != ".safetensors") continue;
        SCOPED_TRACE(found.path());
        const NamedTensors tensors = heed::read_safetensors(found.path());
        EXPECT_GT(tensors.size(), 0u);
        write_safetensors(folder / "copy", tensors);
        EXPECT_EQ(heed::read_safetensors(folder / "copy"), tensors);
        ++count;
    }
    EXPECT_GT(count, 0);
}
#endif

/// Changes, cuts, repeats or inserts some bytes, most often in the header.
Bytes mutated(Bytes file, support::Random& random) {
    const std::string json = "{}[]\",:0123456789-.eE \\u\x00\xff\x80nt";
    for (std::int64_t changes = random.integer(1, 4); changes > 0; --changes) {
        if (file.empty()) return file;
        const std::int64_t end =
            random.chance(0.8) ? std::min<std::int64_t>(std::ssize(file), 300) : std::ssize(file);
        const auto at = file.begin() + random.integer(0, end - 1);
        const auto letter = static_cast<std::byte>(
            json[static_cast<std::size_t>(random.integer(0, std::ssize(json) - 1))]);
        switch (random.integer(0, 5)) {
            case 0:
                *at ^= static_cast<std::byte>(1 << random.integer(0, 7));
                break;
            case 1:
                *at = letter;
                break;
            case 2:
                file.insert(at, letter);
                break;
            case 3:
                file.erase(at);
                break;
            case 4:
                file.resize(static_cast<std::size_t>(random.integer(0, std::ssize(file))));
                break;
            default: {
                const Bytes part(at, at + std::min<std::ptrdiff_t>(file.end() - at, 40));
                file.insert(file.begin() + random.integer(0, std::ssize(file)), part.begin(),
                            part.end());
            }
        }
    }
    return file;
}

TEST(SafetensorsFuzz, MutatedFilesAreReadOrRefused) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const TemporaryFolder folder;
    write_safetensors(folder / "valid", small());
    const Bytes valid = files::read(folder / "valid");
    int accepted = 0, refused = 0;
    for (int i = 0; i < 20'000; ++i) {
        const Bytes file = mutated(valid, random);
        try {
            const NamedTensors tensors = heed::read_safetensors(file);
            ++accepted;
            // What is accepted cannot hold more than the file.
            std::size_t bytes = 0;
            for (const auto& [name, tensor] : tensors) bytes += tensor.bytes().size();
            EXPECT_LE(bytes, file.size());
        } catch (const FormatError&) {
            ++refused;
        }
    }
    // Bytes of the tensors may change without harm, so that some must pass, but not most.
    EXPECT_GT(accepted, 200);
    EXPECT_GT(refused, 10'000);
}

TEST(SafetensorsFuzz, EveryTruncationIsRefused) {
    const TemporaryFolder folder;
    write_safetensors(folder / "valid", small());
    Bytes file = files::read(folder / "valid");
    while (!file.empty()) {
        file.pop_back();
        EXPECT_THROW((void)heed::read_safetensors(file), FormatError) << file.size();
        files::write(folder / "cut", file);
        EXPECT_THROW((void)heed::read_safetensors(folder / "cut"), FormatError) << file.size();
    }
}

}  // namespace
