#pragma once
// What does the way of the loss look like?
// Has gnuplot draw it; writes the picture and nothing else.

#include <filesystem>
#include <string>

#include "curve.hpp"

namespace char_model {

/// True when there is a gnuplot to call.
[[nodiscard]] bool can_plot();

/// What gnuplot reads to draw the curve into the file: an SVG, or a PNG where the file's name ends
/// so. Throws heed::ArgumentError for a name that ends otherwise.
[[nodiscard]] std::string plot_script(const std::filesystem::path& file, const Curve& curve);

/// Draws it. Throws what plot_script does, std::runtime_error when gnuplot fails.
void write_plot(const std::filesystem::path& file, const Curve& curve);

}  // namespace char_model
