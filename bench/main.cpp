// Runs all benchmarks in interleaved rounds and prints what they showed.

#include <algorithm>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "heed/heed.hpp"
#include "suite.hpp"

namespace {

constexpr std::string_view usage =
    R"(usage: heed_bench [OPTIONS] [GOOGLE BENCHMARK'S OPTIONS]

Times heed beside plain Eigen, in rounds that run all benchmarks in random order. Each result is
checked once before it is timed. Prints tables (Markdown) to standard output; bench/README.md says
what their columns mean. The environment variable HEED_ISA chooses a lesser instruction set.

  --quick                        fewer sizes, three rounds: a quarter of an hour
  --series=FILE                  write the numbers for bench/plot.gp
  --help                         show this

Of Google Benchmark's options these are useful most; the values shown are those in force here:
  --benchmark_filter=REGEX       only benchmarks with such a name, as 'forward<float>.*Lq:1024'
  --benchmark_list_tests         only list their names
  --benchmark_out=FILE           write all measurements as JSON
  --benchmark_repetitions=7      rounds
  --benchmark_min_time=0.1       seconds for each measurement
  --benchmark_enable_random_interleaving=true
)";

struct Options {
    bench::Extent extent = bench::Extent::full;
    std::string series;
    bool help = false;
    std::vector<std::string> others;  ///< for Google Benchmark
};

Options parse(int argc, char** argv) {
    Options options;
    constexpr std::string_view series = "--series=";
    for (const std::string_view argument : std::vector<std::string_view>(argv + 1, argv + argc)) {
        if (argument == "--help")
            options.help = true;
        else if (argument == "--quick")
            options.extent = bench::Extent::quick;
        else if (argument.starts_with(series))
            options.series = argument.substr(series.size());
        else
            options.others.emplace_back(argument);
    }
    return options;
}

/// Our defaults, then what the user said.
std::vector<std::string> benchmark_arguments(const Options& options, const char* program) {
    const bool quick = options.extent == bench::Extent::quick;
    std::vector<std::string> arguments = {
        program, "--benchmark_enable_random_interleaving=true",
        quick ? "--benchmark_repetitions=3" : "--benchmark_repetitions=7",
        quick ? "--benchmark_min_time=0.03" : "--benchmark_min_time=0.1"};
    arguments.insert(arguments.end(), options.others.begin(), options.others.end());
    return arguments;
}

/// False when Google Benchmark does not know one of them. It keeps pointers to them.
bool initialize(std::vector<std::string>& arguments) {
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    int count = static_cast<int>(pointers.size());
    pointers.push_back(nullptr);
    benchmark::Initialize(&count, pointers.data());
    return !benchmark::ReportUnrecognizedArguments(count, pointers.data());
}

/// The processor's model, as Linux knows it.
std::string processor() {
    std::ifstream info("/proc/cpuinfo");
    std::string line, model, family, number;
    const auto value = [&line] { return line.substr(std::min(line.size(), line.find(':') + 2)); };
    while (std::getline(info, line) && !line.empty()) {
        if (line.starts_with("model name"))
            model = value();
        else if (line.starts_with("cpu family"))
            family = value();
        else if (line.starts_with("model"))
            number = value();
    }
    if (model.empty()) return "unknown";
    return family.empty() ? model : model + " (family " + family + ", model " + number + ")";
}

std::string compiler() {
#if defined(__clang__)
    return __VERSION__;
#else
    return std::string("g++ ") + __VERSION__;
#endif
}

std::vector<std::pair<std::string, std::string>> circumstances() {
    const auto version = [](auto a, auto b, auto c) {
        return std::to_string(a) + "." + std::to_string(b) + "." + std::to_string(c);
    };
    return {{"processor", processor()},
            {"hardware threads", std::to_string(std::thread::hardware_concurrency())},
            {"instruction set in force", std::string(heed::isa_name(heed::current_isa()))},
            {"compiler", compiler()},
            {"Eigen", version(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION)},
            {"heed", version(HEED_VERSION_MAJOR, HEED_VERSION_MINOR, HEED_VERSION_PATCH)}};
}

void print(const bench::Report& report) {
    for (const auto& [key, value] : circumstances())
        std::cout << "- " << key << ": " << value << '\n';
    std::cout << '\n';
    report.print_tables(std::cout);
}

void write_series(const bench::Report& report, const std::string& path) {
    std::ofstream file(path);
    report.write_series(file);
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

int run(const Options& options, const char* program) {
    for (const auto& [key, value] : circumstances()) benchmark::AddCustomContext(key, value);
    bench::Report report;
    bench::add_forward_benchmarks(options.extent, report);
    bench::add_backward_benchmarks(options.extent, report);
    bench::add_linear_benchmarks(options.extent, report);
    bench::add_layer_benchmarks(report);
    if (options.extent == bench::Extent::full) bench::add_tile_benchmarks(report);
    std::vector<std::string> arguments = benchmark_arguments(options, program);
    if (!initialize(arguments)) return 2;
    benchmark::RunSpecifiedBenchmarks(&report);
    benchmark::Shutdown();
    if (!report.empty()) print(report);
    if (!options.series.empty()) write_series(report, options.series);
    return report.failed() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    if (options.help) {
        std::cout << usage;
        return 0;
    }
    try {
        return run(options, argv[0]);
    } catch (const std::exception& error) {
        std::cerr << "heed_bench: " << error.what() << '\n';
        return 1;
    }
}
