#pragma once
// Which benchmarks does this program have?
// Each file of benchmarks adds its own to Google Benchmark and says where they stand in the report.

#include "report.hpp"

namespace bench {

/// How much to measure: everything, or what fits into two minutes.
enum class Extent { full, quick };

/// Attention forward by length, heads, mask, head size, instruction set and threads. A wrong
/// result is a failure of the report, and not timed. The report must outlive the runs.
void add_forward_benchmarks(Extent extent, Report& report);

/// Gradients of attention by length, head size, threads and bias; the same rules.
void add_backward_benchmarks(Extent extent, Report& report);

/// The products of linear layers by rows and sizes; the same rules.
void add_linear_benchmarks(Extent extent, Report& report);

/// Short layers of multi-head attention, where what is not a product counts; the same rules.
void add_layer_benchmarks(Report& report);

/// The kernels that the tiles of attention are made of, one by one.
void add_tile_benchmarks(Report& report);

}  // namespace bench
