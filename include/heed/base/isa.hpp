#pragma once
// Which instruction set do the kernels use?
// Asks the processor once, lets the caller or the environment (HEED_ISA) choose a lesser one.

#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "heed/base/contract.hpp"

// Kernels for several x86 instruction sets need per-function targets and vector extensions, which
// g++ and clang have.
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define HEED_HAS_X86_KERNELS 1
#else
#define HEED_HAS_X86_KERNELS 0
#endif

namespace heed::inline v0 {

/// Instruction sets with kernels of their own, from least to most capable.
enum class Isa {
    baseline,  ///< what every processor of the architecture has: SSE2, NEON
    avx2,      ///< AVX2 with FMA
    avx512,    ///< AVX-512 F, DQ, BW and VL
};

[[nodiscard]] constexpr std::string_view isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        case Isa::baseline:
            break;
    }
    return "baseline";
}

/// The instruction set with this name. Throws ArgumentError for a name that isa_name never returns.
[[nodiscard]] inline Isa isa_from_name(std::string_view name) {
    for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
        if (name == isa_name(isa)) return isa;
    detail::fail<ArgumentError>("isa_from_name", "an instruction set is baseline, avx2 or avx512; ",
                                "found ", name);
}

/// True when this processor can run the kernels of the instruction set.
[[nodiscard]] inline bool isa_is_supported(Isa isa) {
    if (isa == Isa::baseline) return true;
#if HEED_HAS_X86_KERNELS
    if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return isa_is_supported(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

namespace detail {

inline void require_supported(Isa isa) {
    if (!isa_is_supported(isa))
        fail<ArgumentError>("use_isa", "the processor must have the instruction set; found ",
                            isa_name(isa));
}

/// The environment's choice, or the best that the processor has.
inline Isa initial_isa() {
    if (const char* name = std::getenv("HEED_ISA"); name != nullptr && *name != '\0') {
        const Isa isa = isa_from_name(name);
        require_supported(isa);
        return isa;
    }
    if (isa_is_supported(Isa::avx512)) return Isa::avx512;
    return isa_is_supported(Isa::avx2) ? Isa::avx2 : Isa::baseline;
}

inline std::atomic<Isa>& isa_in_force() {
    static std::atomic<Isa> isa{initial_isa()};
    return isa;
}

}  // namespace detail

/// The instruction set in force for the whole process: the best that the processor has, unless
/// use_isa or the environment variable HEED_ISA (baseline, avx2, avx512; read at the first use)
/// says otherwise. Throws ArgumentError when HEED_ISA names none, or one that is not supported.
[[nodiscard]] inline Isa current_isa() {
    return detail::isa_in_force().load(std::memory_order_relaxed);
}

/// Chooses the instruction set from now on. Results differ between instruction sets in rounding.
/// Throws ArgumentError when the processor does not have it.
inline void use_isa(Isa isa) {
    detail::require_supported(isa);
    detail::isa_in_force().store(isa, std::memory_order_relaxed);
}

}  // namespace heed::inline v0
