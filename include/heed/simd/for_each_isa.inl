// How is one text compiled for several instruction sets?
// No #pragma once: includes HEED_KERNEL_TEXT once for each instruction set of this processor
// family, in a namespace of that name and under its target options, whatever flags the unit is
// compiled with. The text finds HEED_VECTOR_BYTES, HEED_VECTOR_REGISTERS and HEED_ISA_OF_TEXT
// defined.
//
// Every processor with AVX2 executes prefetchw, the first ones (Haswell) without any effect.
//
// The options are written out for each set, because neither compiler takes them from a macro.

#if HEED_HAS_X86_KERNELS

namespace avx512 {
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma,prfchw"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma,prfchw,prefer-vector-width=512")
#endif
#define HEED_VECTOR_BYTES 64
#define HEED_VECTOR_REGISTERS 32
#define HEED_ISA_OF_TEXT Isa::avx512
#include HEED_KERNEL_TEXT
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TEXT
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
}  // namespace avx512

namespace avx2 {
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,prfchw,no-avx512f"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,prfchw,no-avx512f")
#endif
#define HEED_VECTOR_BYTES 32
#define HEED_VECTOR_REGISTERS 16
#define HEED_ISA_OF_TEXT Isa::avx2
#include HEED_KERNEL_TEXT
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TEXT
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
#define HEED_ISA_OF_TEXT Isa::baseline
#include HEED_KERNEL_TEXT
#undef HEED_VECTOR_BYTES
#undef HEED_VECTOR_REGISTERS
#undef HEED_ISA_OF_TEXT
#if HEED_HAS_X86_KERNELS && defined(__clang__)
#pragma clang attribute pop
#elif HEED_HAS_X86_KERNELS
#pragma GCC pop_options
#endif
}  // namespace baseline
