#pragma once
// Which table of kernels serves this process?
// Compiles the kernel text once for each instruction set, whatever flags the unit is compiled
// with, and picks by the instruction set in force.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>

#include "heed/simd/tile_kernels.hpp"

// Compiling all kernels takes a few seconds in each unit that calls an attention. A program of many
// units may define HEED_COMPILED for all of them, and HEED_IMPLEMENTATION in one besides: only that
// one then compiles the kernels.
#if !defined(HEED_COMPILED) || defined(HEED_IMPLEMENTATION)
#define HEED_DEFINES_KERNELS 1
#else
#define HEED_DEFINES_KERNELS 0
#endif

/// The table of that name of the instruction set in force.
#if HEED_HAS_X86_KERNELS
#define HEED_TABLE(...)                                 \
    (current_isa() == Isa::avx512 ? avx512::__VA_ARGS__ \
     : current_isa() == Isa::avx2 ? avx2::__VA_ARGS__   \
                                  : baseline::__VA_ARGS__)
#else
#define HEED_TABLE(...) (baseline::__VA_ARGS__)
#endif

namespace heed::inline v0::detail {

/// The kernels of the instruction set in force.
template <class T>
[[nodiscard]] const TileKernels<T>& tile_kernels();

#if defined(HEED_COMPILED) && !HEED_DEFINES_KERNELS
extern template const TileKernels<float>& tile_kernels<float>();
extern template const TileKernels<double>& tile_kernels<double>();
#endif

#if HEED_DEFINES_KERNELS
#define HEED_KERNEL_TEXT "heed/simd/tile_kernels.inl"
#include "heed/simd/for_each_isa.inl"
#undef HEED_KERNEL_TEXT

template <class T>
const TileKernels<T>& tile_kernels() {
    return HEED_TABLE(table<T>);
}

#if defined(HEED_COMPILED)
template const TileKernels<float>& tile_kernels<float>();
template const TileKernels<double>& tile_kernels<double>();
#endif

#endif  // HEED_DEFINES_KERNELS

}  // namespace heed::inline v0::detail
