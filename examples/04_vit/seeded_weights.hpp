#pragma once
// Which weights does a model have that nobody trained?
// Random numbers that any language can make again: each parameter is a Philox stream of its own,
// chosen by the parameter's name. Writes the parameters of the module it is given.

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "heed/tensor/random.hpp"

namespace vit {

/// FNV-1a of 64 bits.
[[nodiscard]] constexpr std::uint64_t seed_of(std::string_view name) {
    std::uint64_t hash = 0xCBF29CE484222325;
    for (char letter : name) hash = (hash ^ static_cast<unsigned char>(letter)) * 0x100000001B3;
    return hash;
}

/// Every parameter uniform: matrices so that they keep the variance of what they multiply, gains
/// around 1, all others around 0. No logarithm or cosine takes part, so that the numbers do not
/// depend on a mathematical library.
template <class Module>
void fill_seeded(Module& module) {
    module.for_each_parameter([](const std::string& name, auto parameter) {
        const bool is_weight = name.ends_with(".weight");
        if (is_weight && parameter.rank() > 1) {
            const auto inputs =
                static_cast<double>(parameter.element_count() / parameter.extent(0));
            const double bound = std::sqrt(3.0 / inputs);
            heed::fill_uniform(parameter, seed_of(name), -bound, bound);
        } else {
            const double centre = is_weight || name.ends_with(".gamma") ? 1.0 : 0.0;
            heed::fill_uniform(parameter, seed_of(name), centre - 0.5, centre + 0.5);
        }
    });
}

}  // namespace vit
