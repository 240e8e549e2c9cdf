#pragma once
// Which heed is this, and can this compiler mode keep its promises?
// Knows the compiler and nothing else; refuses modes in which results would be wrong.

#define HEED_VERSION_MAJOR 0
#define HEED_VERSION_MINOR 1
#define HEED_VERSION_PATCH 0

/// True when this heed is at least the given version; usable in `#if`.
#define HEED_VERSION_AT_LEAST(major, minor, patch)                                    \
    (HEED_VERSION_MAJOR * 1000000 + HEED_VERSION_MINOR * 1000 + HEED_VERSION_PATCH >= \
     (major)*1000000 + (minor)*1000 + (patch))

#if !defined(__cpp_concepts)
#error "heed needs C++20: compile with -std=c++20 or newer"
#endif

// Masks are minus infinity and empty rows are defined through it: a compiler that assumes
// "no infinities, no NaN" deletes exactly those tests.
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "heed does not work under -ffast-math: add -fno-finite-math-only"
#endif
