// What does each step of a tile cost, when its data is in the nearest caches?

#include <string>
#include <vector>

#include "fma_peak.hpp"
#include "heed/heed.hpp"
#include "suite.hpp"

namespace bench {
namespace {

constexpr heed::Index head_dim = 64, width = heed::detail::max_tile_width;
constexpr heed::Index keys = heed::detail::key_tile;

/// The buffers of one tile, filled so that every kernel can run on them again and again.
template <class T>
struct Tile {
    const heed::detail::TileKernels<T>& kernels = heed::detail::tile_kernels<T>();
    heed::Index row = width * kernels.lanes;
    std::vector<T> k = numbers(keys * head_dim), v = numbers(keys * head_dim);
    std::vector<T> queries = numbers(head_dim * row), scores = numbers(keys * row);
    std::vector<T> out = numbers(head_dim * row);
    // exp(x - 1) stays in (0, 1], however often it is taken.
    std::vector<T> max = all(1), sum = all(1), factor = all(1), tile_max = all(0);
    heed::detail::LinesAhead ahead;
    std::vector<T> first_key = all(0), end_key = all(keys);

    static std::vector<T> numbers(heed::Index count) {
        std::vector<T> values(static_cast<std::size_t>(count));
        heed::fill_uniform(heed::TensorView<T, 1>(values.data(), {count}), 1, 0.0, 1.0);
        return values;
    }
    [[nodiscard]] std::vector<T> all(heed::Index value) const {
        return std::vector<T>(static_cast<std::size_t>(row), static_cast<T>(value));
    }
};

template <class T>
struct Step {
    std::string name;
    void (*run)(Tile<T>&);
};

template <class T>
std::vector<Step<T>> steps() {
    constexpr heed::Index w = width - 1;
    return {
        {"scores",
         [](Tile<T>& t) {
             t.kernels.scores[w](t.k.data(), head_dim, keys, head_dim, t.queries.data(),
                                 t.scores.data(), t.row, t.tile_max.data(), t.ahead);
         }},
        {"exponentiate",
         [](Tile<T>& t) {
             t.kernels.exponentiate[w](t.scores.data(), keys, t.max.data(), t.sum.data());
         }},
        {"values",
         [](Tile<T>& t) {
             t.kernels.values[w](t.v.data(), head_dim, keys, head_dim, t.scores.data(),
                                 t.out.data(), t.row, t.ahead);
         }},
        {"rescale",
         [](Tile<T>& t) { t.kernels.rescale[w](t.out.data(), head_dim, t.factor.data()); }},
        {"hide_outside",
         [](Tile<T>& t) {
             t.kernels.hide_outside[w](t.scores.data(), keys, t.first_key.data(), t.end_key.data(),
                                       t.tile_max.data());
         }},
        {"row_max",
         [](Tile<T>& t) { t.kernels.row_max[w](t.scores.data(), keys, t.tile_max.data()); }},
        {"all_finite", [](Tile<T>& t) {
             benchmark::DoNotOptimize(t.kernels.all_finite(t.v.data(), head_dim, keys, head_dim));
         }}};
}

template <class T>
void measure(benchmark::State& state, heed::Isa isa, const Step<T>& step) {
    constexpr double probe_seconds = 0.005;
    heed::use_isa(isa);
    Tile<T> tile;
    const double peak_before = fma_peak<T>(isa, probe_seconds, cpu_seconds);
    for ([[maybe_unused]] auto _ : state) step.run(tile);
    const double peak = (peak_before + fma_peak<T>(isa, probe_seconds, cpu_seconds)) / 2;
    // As if each score cost one multiply-add: the share of the peak is one over what it does cost.
    report_speed(state, 2.0 * static_cast<double>(keys * tile.row), peak);
}

template <class T>
void add_steps(heed::Isa isa, const std::string& type, Report& report) {
    const std::string column = type + " " + std::string(heed::isa_name(isa));
    for (const Step<T>& step : steps<T>()) {
        const std::string name =
            "tile<" + type + ">/" + step.name + "/isa:" + std::string(heed::isa_name(isa));
        report.add_place(name, {"tile", step.name, 0, column});
        benchmark::RegisterBenchmark(name.c_str(),
                                     [isa, step, column, &report](benchmark::State& state) {
                                         measure<T>(state, isa, step);
                                         state.SetLabel(column);
                                         report.note_measurement();
                                     });
    }
}

}  // namespace

void add_tile_benchmarks(Report& report) {
    report.add_table({.id = "tile",
                      .title = "the steps of a tile, D=64: multiply-adds that each takes the time "
                               "of, per score",
                      .row_header = "step",
                      .shows = Report::Shows::cost});
    for (heed::Isa isa : {heed::Isa::avx512, heed::Isa::avx2, heed::Isa::baseline}) {
        if (!heed::isa_is_supported(isa)) continue;
        add_steps<float>(isa, "float", report);
        add_steps<double>(isa, "double", report);
    }
}

}  // namespace bench
