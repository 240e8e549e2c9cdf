// How much memory does an attention take as sequences grow?
// Prints a table: what heed counts and what the process grew by, for the output alone and for the
// output with its weights. Each row runs in a process of its own, so that it sees its own peak.

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "heed/heed.hpp"

namespace {

using heed::Index;
using heed::Tensor;

constexpr Index head_dim = 64;
constexpr double mib = 1024.0 * 1024.0;

double peak_mib() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

/// Output, weights if asked for, and scratch.
double counted_mib(Index length, bool with_weights) {
    const heed::AttentionShape s{1, 1, 1, length, length, head_dim, head_dim};
    const double numbers =
        static_cast<double>(length) * static_cast<double>(head_dim + (with_weights ? length : 0));
    return (numbers * sizeof(float) +
            static_cast<double>(heed::attention_workspace_bytes<float>(s, with_weights, 1))) /
           mib;
}

/// By how much one attention raises the peak of this process, its inputs apart.
double grown_mib(Index length, bool with_weights) {
    Tensor<float, 4> q({1, 1, length, head_dim}), k(q.shape()), v(q.shape());
    heed::fill_normal(q.view(), 1);
    heed::fill_normal(k.view(), 2);
    heed::fill_normal(v.view(), 3);
    const double before = peak_mib();
    Tensor<float, 4> weights;
    if (with_weights) weights = Tensor<float, 4>({1, 1, length, length});
    heed::AttentionOptions<float> options{.executor = heed::serial};
    if (with_weights) options.weights = weights;
    const auto out = heed::scaled_dot_product_attention(q, k, v, heed::NoMask{}, options);
    return out.empty() ? 0.0 : peak_mib() - before;
}

/// grown_mib in a process of its own; below 0 when that failed.
double measured_mib(Index length, bool with_weights) {
    int ends[2];
    if (pipe(ends) != 0) return -1;
    const pid_t child = fork();
    if (child == 0) {
        const double grown = grown_mib(length, with_weights);
        const bool told = write(ends[1], &grown, sizeof grown) == sizeof grown;
        _exit(told ? 0 : 1);
    }
    close(ends[1]);
    double grown = -1;
    if (child < 0 || read(ends[0], &grown, sizeof grown) != sizeof grown) grown = -1;
    close(ends[0]);
    if (child > 0) waitpid(child, nullptr, 0);
    return grown;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && std::strcmp(argv[1], "--quick") != 0) {
        std::puts(
            "Usage: heed_bench_memory [--quick]\n\n"
            "What an attention takes beside its inputs, by length.\n\n"
            "  --quick   up to 4096 positions instead of 16384\n"
            "  --help    this text");
        return std::strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    const Index longest = argc > 1 ? 4096 : 16384;
    std::printf(
        "MiB beside q, k and v; float, one head of %d features.\n\n"
        "| L | output alone | measured | with weights | measured |\n"
        "|---:|---:|---:|---:|---:|\n",
        static_cast<int>(head_dim));
    for (Index length = 1024; length <= longest; length *= 2) {
        std::printf("| %d | %.2f | %.2f | %.2f | %.2f |\n", static_cast<int>(length),
                    counted_mib(length, false), measured_mib(length, false),
                    counted_mib(length, true), measured_mib(length, true));
        std::fflush(stdout);
    }
    return 0;
}
