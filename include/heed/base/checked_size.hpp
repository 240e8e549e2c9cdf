#pragma once
// How many elements or bytes is that, if it fits at all?
// The only place where sizes are multiplied or added: overflow is an error, never a wrap.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "heed/base/contract.hpp"

namespace heed::inline v0 {

/// Lengths, positions and strides; signed, so that a difference of two is always meaningful.
using Index = std::ptrdiff_t;

namespace detail {

/// A non-negative size whose arithmetic throws `ErrorKind` instead of wrapping around.
/// The limit is the largest Index, so a CheckedSize always converts to either type.
template <class ErrorKind = ShapeError>
class CheckedSize {
  public:
    CheckedSize(std::string_view where, std::uint64_t value) : where_(where), value_(value) {
        if (value > limit) overflow();
    }

    CheckedSize& operator*=(std::uint64_t factor) {
        if (factor != 0 && value_ > limit / factor) overflow();
        value_ *= factor;
        return *this;
    }

    CheckedSize& operator+=(std::uint64_t term) {
        if (term > limit || value_ > limit - term) overflow();
        value_ += term;
        return *this;
    }

    friend CheckedSize operator*(CheckedSize size, std::uint64_t factor) { return size *= factor; }
    friend CheckedSize operator+(CheckedSize size, std::uint64_t term) { return size += term; }

    [[nodiscard]] Index index() const { return static_cast<Index>(value_); }
    [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(value_); }

  private:
    static constexpr auto limit = static_cast<std::uint64_t>(std::numeric_limits<Index>::max());

    [[noreturn]] void overflow() const {
        fail<ErrorKind>(where_, "a size must fit into 63 bits; found a product or sum beyond it");
    }

    std::string_view where_;
    std::uint64_t value_;
};

}  // namespace detail
}  // namespace heed::inline v0
