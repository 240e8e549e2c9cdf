#pragma once
// How does a file come to be read in order, and written so that nobody ever sees half of it?
// Opens the paths it is given, regular files only; knows bytes, not formats.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "heed/base/contract.hpp"

namespace heed::inline v0::detail {

struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

/// A regular file that is read from front to back. Devices, pipes and folders are refused: they
/// have no size to check a header against. Throws FormatError "[where] ...; found ... in 'path'".
class FileReader {
  public:
    FileReader(std::string_view where, const std::filesystem::path& path)
        : where_(where), name_(path.string()) {
        std::error_code problem;
        if (!std::filesystem::is_regular_file(path, problem))
            fail<FormatError>(where_, "there must be a regular file to read; found none at '",
                              name_, "'");
        file_.reset(std::fopen(name_.c_str(), "rb"));
        if (!file_)
            fail<FormatError>(where_, "the file must be readable; found no way to open '", name_,
                              "'");
        size_ = std::filesystem::file_size(path, problem);
        if (problem)
            fail<FormatError>(where_, "the file must have a size; found none for '", name_, "'");
    }

    [[nodiscard]] std::uint64_t size() const { return size_; }

    /// Where the bytes come from, for the end of an error message.
    [[nodiscard]] std::string origin() const { return " in '" + name_ + "'"; }

    void read(std::span<std::byte> target) {
        if (target.empty()) return;  // and may have no address, which fread demands
        if (std::fread(target.data(), 1, target.size(), file_.get()) != target.size())
            fail<FormatError>(where_, "the file must not shrink while it is read; found its end",
                              origin());
    }

  private:
    std::string_view where_;
    std::string name_;
    File file_;
    std::uint64_t size_ = 0;
};

/// The same for bytes in memory.
class MemoryReader {
  public:
    explicit MemoryReader(std::span<const std::byte> bytes) : rest_(bytes), size_(bytes.size()) {}

    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] std::string origin() const { return {}; }

    void read(std::span<std::byte> target) {
        std::copy_n(rest_.begin(), target.size(), target.begin());
        rest_ = rest_.subspan(target.size());
    }

  private:
    std::span<const std::byte> rest_;
    std::uint64_t size_;
};

/// A new file beside the one that it will replace; gone again unless it is kept.
class ReplacementFile {
  public:
    ReplacementFile(std::string_view where, const std::filesystem::path& target)
        : where_(where), target_(target) {
        std::error_code problem;
        // Renaming over a device or pipe would remove it.
        if (std::filesystem::exists(target, problem) &&
            !std::filesystem::is_regular_file(target, problem))
            fail<FormatError>(where_, "only a regular file can be replaced; found something else ",
                              "at '", target_.string(), "'");
        for (int attempt = 0; attempt < 100 && !file_; ++attempt) {
            path_ = target;
            path_ += ".part" + std::to_string(attempt);
            // "x": never opens a file that exists, so that two writers cannot share one.
            file_.reset(std::fopen(path_.string().c_str(), "wbx"));
        }
        if (!file_) fail_write();
    }
    ReplacementFile(const ReplacementFile&) = delete;
    ReplacementFile& operator=(const ReplacementFile&) = delete;
    ~ReplacementFile() {
        if (kept_) return;
        file_.reset();
        std::error_code ignored;
        std::filesystem::remove(path_, ignored);
    }

    void write(std::span<const std::byte> bytes) {
        if (bytes.empty()) return;  // and may have no address, which fwrite demands
        if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) fail_write();
    }

    /// Closes the file and gives it the target's name.
    void keep() {
        if (std::fclose(file_.release()) != 0) fail_write();
        std::error_code problem;
        std::filesystem::rename(path_, target_, problem);
        if (problem) fail_write();
        kept_ = true;
    }

  private:
    [[noreturn]] void fail_write() const {
        fail<FormatError>(where_, "the file must be writable; found no way to write '",
                          target_.string(), "'");
    }

    std::string_view where_;
    std::filesystem::path target_;
    std::filesystem::path path_;
    File file_;
    bool kept_ = false;
};

}  // namespace heed::inline v0::detail
