#pragma once
// What does attention look like?
// Heatmaps as text for a terminal and as PNG files; written only to the stream or path given.

#include "heed/io/png_heatmap.hpp"
#include "heed/io/text_heatmap.hpp"
