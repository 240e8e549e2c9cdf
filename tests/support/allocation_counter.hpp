#pragma once
// Does a piece of code allocate? Counts every call of operator new in the program.
// Programs that use it link allocation_counter.cpp, which replaces operator new and delete.
//
// Eigen's own temporaries come from std::malloc and are not seen; EIGEN_RUNTIME_NO_MALLOC and
// Eigen::internal::set_is_malloc_allowed(false) see those.

#include <cstddef>

namespace support {

/// Calls of operator new, in any form and any thread, since the program began.
std::size_t total_allocations() noexcept;

/// Bytes asked for in those calls.
std::size_t total_allocated_bytes() noexcept;

/// Counts from its construction on.
class AllocationCounter {
  public:
    std::size_t count() const noexcept { return total_allocations() - count_before_; }
    std::size_t bytes() const noexcept { return total_allocated_bytes() - bytes_before_; }

  private:
    std::size_t count_before_ = total_allocations();
    std::size_t bytes_before_ = total_allocated_bytes();
};

}  // namespace support
