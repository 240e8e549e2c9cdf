// Reads memory with each instruction set, whatever flags this unit is compiled with.

#include "memory_read.hpp"

namespace bench {
namespace {

#define HEED_KERNEL_TEXT "memory_read.inl"
#include "heed/simd/for_each_isa.inl"
#undef HEED_KERNEL_TEXT

}  // namespace

float read_memory(heed::Isa isa, const float* values, Size count) {
#if HEED_HAS_X86_KERNELS
    if (isa == heed::Isa::avx512) return avx512::read_all(values, count);
    if (isa == heed::Isa::avx2) return avx2::read_all(values, count);
#endif
    static_cast<void>(isa);
    return baseline::read_all(values, count);
}

}  // namespace bench
