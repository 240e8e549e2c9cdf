#pragma once
// How do the tests of io make files, and what is in them?

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.hpp"

namespace files {

using support::TemporaryFolder;
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
