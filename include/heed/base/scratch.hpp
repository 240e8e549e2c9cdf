#pragma once
// Where do temporary numbers lie?
// In the caller's workspace, or in memory that is allocated for one call; hands it out in cache
// lines.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

#include "heed/base/checked_size.hpp"
#include "heed/base/contract.hpp"

namespace heed::inline v0::detail {

/// Scratch memory begins at a cache line.
inline constexpr std::size_t scratch_alignment = 64;

/// Hands out memory in whole cache lines. Without memory, it only counts.
template <class C>
class LineAllocator {
  public:
    explicit LineAllocator(C* memory) : memory_(memory) {}

    /// As many elements of T (C unless named) as the product of the extents.
    template <class T = C>
    [[nodiscard]] T* take(std::initializer_list<Index> extents) {
        CheckedSize<> bytes(where, sizeof(T));
        for (Index extent : extents) bytes *= static_cast<std::uint64_t>(extent);
        const std::uint64_t lines = (bytes + (scratch_alignment - 1)).bytes() / scratch_alignment;
        const Index begin = used_.index();
        used_ += (CheckedSize<>(where, lines) * (scratch_alignment / sizeof(C))).bytes();
        return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + begin);
    }
    /// Elements of C so far.
    [[nodiscard]] CheckedSize<> used() const { return used_; }

  private:
    static constexpr std::string_view where = "workspace";

    C* memory_;
    CheckedSize<> used_{where, 0};
};

/// A workspace that is given must suffice.
inline void require_workspace(std::string_view where, std::span<std::byte> workspace,
                              std::size_t needed) {
    if (!workspace.empty() && workspace.size() < needed)
        fail<ArgumentError>(where, "the workspace must have at least ", needed, " bytes; found ",
                            workspace.size());
}

/// The caller's workspace, aligned, or memory of its own when none was given.
class Scratch {
  public:
    Scratch(std::size_t needed, std::span<std::byte> workspace) {
        if (workspace.empty()) {
            owned_ = std::make_unique_for_overwrite<std::byte[]>(needed);
            workspace = {owned_.get(), needed};
        }
        void* begin = workspace.data();
        std::size_t space = workspace.size();
        memory_ = std::align(scratch_alignment, needed - scratch_alignment, begin, space);
    }

    template <class C>
    [[nodiscard]] C* as() const {
        return static_cast<C*>(memory_);
    }

  private:
    std::unique_ptr<std::byte[]> owned_;
    void* memory_ = nullptr;
};

}  // namespace heed::inline v0::detail
