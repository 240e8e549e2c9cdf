#pragma once
// Can large memory be reached by way of fewer, larger pages?
// Asks the system, which may refuse; reads and writes nothing.

#include <cstddef>

#include "heed/base/config.hpp"

#if defined(__linux__) && __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace heed::inline v0::detail {

/// The larger of the page sizes of most processors.
inline constexpr std::size_t large_page = std::size_t{2} << 20;

/// Memory that begins at a large page and has at least one may be mapped in large pages: weights
/// that are read one after another then take a few entries of the processor's table of pages, not
/// thousands. Without the advice, most systems use small ones.
inline void ask_for_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // It is advice: what becomes of it changes no result.
    (void)madvise(memory, bytes / large_page * large_page, MADV_HUGEPAGE);
#endif
}

}  // namespace heed::inline v0::detail
