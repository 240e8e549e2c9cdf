// How fast is attention as this compiler and these flags made it?
// Prints a line for each case: its name and its part of the FMA peak, the median of some rounds.

#include <algorithm>
#include <array>
#include <cstdio>

#include "fma_peak.hpp"
#include "heed/heed.hpp"

namespace {

using heed::Index;

struct Case {
    const char* name;
    Index length;
    Index head_dim;
    bool causal;
};
constexpr std::array<Case, 5> cases = {{{"L=32", 32, 64, false},
                                        {"L=128", 128, 64, false},
                                        {"L=1024", 1024, 64, false},
                                        {"L=1024 causal", 1024, 64, true},
                                        {"L=1024 D=128", 1024, 128, false}}};
constexpr Index heads = 4;

template <class T>
class Attention {
  public:
    explicit Attention(const Case& c) : case_(c) {
        std::uint64_t seed = 1;
        for (auto* tensor : {&q_, &k_, &v_}) {
            *tensor = heed::Tensor<T, 4>({Index{1}, heads, c.length, c.head_dim});
            heed::fill_normal(tensor->view(), seed++);
        }
        out_ = heed::Tensor<T, 4>(q_.shape());
        workspace_.resize(heed::attention_workspace_bytes<T>(
            {1, heads, heads, c.length, c.length, c.head_dim, c.head_dim}, false, 1));
    }

    void run() {
        const heed::AttentionOptions<T> options{.executor = heed::serial, .workspace = workspace_};
        if (case_.causal)
            heed::scaled_dot_product_attention(q_, k_, v_, out_, heed::Causal(), options);
        else
            heed::scaled_dot_product_attention(q_, k_, v_, out_, heed::NoMask(), options);
    }

    /// Two for each multiply-add of a visible pair.
    [[nodiscard]] double operations() const {
        const auto n = static_cast<double>(case_.length);
        const double pairs = case_.causal ? n * (n + 1) / 2 : n * n;
        return 4 * pairs * static_cast<double>(case_.head_dim * heads);
    }

  private:
    Case case_;
    heed::Tensor<T, 4> q_, k_, v_, out_;
    std::vector<std::byte> workspace_;
};

template <class T>
double part_of_peak(Attention<T>& attention) {
    constexpr double probe_seconds = 0.003, least_seconds = 0.02;
    const auto peak = [&] {
        return bench::fma_peak<T>(heed::current_isa(), probe_seconds, bench::cpu_seconds);
    };
    const double peak_before = peak(), start = bench::cpu_seconds();
    double seconds = 0, operations = 0;
    for (; seconds < least_seconds; seconds = bench::cpu_seconds() - start) {
        attention.run();
        operations += attention.operations();
    }
    return operations / seconds / ((peak_before + peak()) / 2);
}

template <class T>
void print(const char* type) {
    for (const Case& c : cases) {
        Attention<T> attention(c);
        attention.run();
        std::array<double, 5> parts{};
        for (double& part : parts) part = part_of_peak(attention);
        std::ranges::sort(parts);
        std::printf("%s %s\t%.4f\n", type, c.name, parts[parts.size() / 2]);
    }
}

}  // namespace

int main() {
    print<float>("float");
    print<double>("double");
}
