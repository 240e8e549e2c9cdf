#pragma once
// How do the tests of io make files? Writes below a temporary folder and removes it again.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace files {

/// A folder of its own for one test.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string name = (std::filesystem::temp_directory_path() / "heed-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
        path_ = name;
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }

    std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

inline Bytes read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return bytes_of(std::string(std::istreambuf_iterator<char>(file), {}));
}

inline void write(const std::filesystem::path& path, std::span<const std::byte> bytes) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
}

/// A safetensors file by hand: length, header as it is, data.
inline Bytes safetensors(std::string_view header, std::string_view data, std::uint64_t length) {
    Bytes file(sizeof(length));
    std::memcpy(file.data(), &length, sizeof(length));
    const Bytes rest = bytes_of(std::string(header) + std::string(data));
    file.insert(file.end(), rest.begin(), rest.end());
    return file;
}

inline Bytes safetensors(std::string_view header, std::string_view data = {}) {
    return safetensors(header, data, header.size());
}

}  // namespace files
