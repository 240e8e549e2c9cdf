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

namespace heed::inline v0::detail {

/// The kernels of the instruction set in force.
template <class T>
[[nodiscard]] const TileKernels<T>& tile_kernels();

#if defined(HEED_COMPILED) && !HEED_DEFINES_KERNELS
extern template const TileKernels<float>& tile_kernels<float>();
extern template const TileKernels<double>& tile_kernels<double>();
#endif

#if HEED_DEFINES_KERNELS
#if HEED_HAS_X86_KERNELS

namespace avx512 {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prefer-vector-width=512")
#endif
#define HEED_VECTOR_BYTES 64
#define HEED_VECTOR_REGISTERS 32
#define HEED_ISA_OF_TABLE Isa::avx512
#include "heed/simd/tile_kernels.inl"
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TABLE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace avx512

namespace avx2 {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,no-avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,no-avx512f")
#endif
#define HEED_VECTOR_BYTES 32
#define HEED_VECTOR_REGISTERS 16
#define HEED_ISA_OF_TABLE Isa::avx2
#include "heed/simd/tile_kernels.inl"
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TABLE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace avx2

#endif

namespace baseline {
#if HEED_HAS_X86_KERNELS && defined(__clang__)
#pragma clang attribute push(__attribute__((target("sse2,no-avx"))), apply_to = function)
#elif HEED_HAS_X86_KERNELS
#pragma GCC push_options
#pragma GCC target("sse2,no-avx")
#endif
#define HEED_VECTOR_BYTES 16
#if defined(__aarch64__)
#define HEED_VECTOR_REGISTERS 32
#else
#define HEED_VECTOR_REGISTERS 16
#endif
#define HEED_ISA_OF_TABLE Isa::baseline
#include "heed/simd/tile_kernels.inl"
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TABLE
#if HEED_HAS_X86_KERNELS && defined(__clang__)
#pragma clang attribute pop
#elif HEED_HAS_X86_KERNELS
#pragma GCC pop_options
#endif
}  // namespace baseline

template <class T>
const TileKernels<T>& tile_kernels() {
    switch (current_isa()) {
#if HEED_HAS_X86_KERNELS
        case Isa::avx512:
            return avx512::table<T>;
        case Isa::avx2:
            return avx2::table<T>;
#else
        case Isa::avx512:
        case Isa::avx2:
#endif
        case Isa::baseline:
            break;
    }
    return baseline::table<T>;
}

#if defined(HEED_COMPILED)
template const TileKernels<float>& tile_kernels<float>();
template const TileKernels<double>& tile_kernels<double>();
#endif

#endif  // HEED_DEFINES_KERNELS

}  // namespace heed::inline v0::detail
