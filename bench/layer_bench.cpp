// What does a layer of multi-head attention cost beside its multiply-adds, where it has few of
// them?

#include <cmath>
#include <map>
#include <string>

#include "check_layer.hpp"
#include "contest.hpp"

namespace bench {
namespace {

/// The layer on normal numbers; weights are scaled so that what passes through keeps its size.
class LayerTask final : public Task {
  public:
    explicit LayerTask(const Case<LayerProblem>& c)
        : problem_(c.problem),
          layer_(heed::PyTorchMultiheadAttention{.embed_dim = problem_.E, .num_heads = problem_.H}),
          x_(normal_numbers<float>(problem_.L * problem_.E), {1, problem_.L, problem_.E}),
          out_(room_for<float>(problem_.L * problem_.E), x_.shape()) {
        std::uint64_t seed = 1;
        const double deviation = 1 / std::sqrt(static_cast<double>(problem_.E));
        layer_.for_each_parameter([&](const std::string& name, auto view) {
            parameters_[name] = view.data();
            heed::fill_normal(view, seed++, 0.0, deviation);
        });
    }

    void run() override { layer_.forward(x_, x_, x_, out_); }

    [[nodiscard]] std::string complaint() const override {
        const support::Verdict verdict = check_layer<float>(
            problem_,
            {x_.data(), parameters_.at("in_proj_weight"), parameters_.at("in_proj_bias"),
             parameters_.at("out_proj.weight"), parameters_.at("out_proj.bias"), out_.data()});
        return verdict ? "" : verdict.message;
    }
    [[nodiscard]] double flops() const override { return problem_.flops(); }

  private:
    LayerProblem problem_;
    heed::MultiHeadAttention<float> layer_;
    heed::TensorView<const float, 3> x_;
    heed::TensorView<float, 3> out_;
    std::map<std::string, const float*> parameters_;
};

struct Layer {
    using Problem = LayerProblem;

    PassNames names{{"multi_head_attention"}, "", ""};

    template <class T>
    [[nodiscard]] std::unique_ptr<Task> make_task(const Case<LayerProblem>& c) const {
        return std::make_unique<LayerTask>(c);
    }
};

}  // namespace

void add_layer_benchmarks(Report& report) {
    Registrar<Layer> registrar(report, {});
    report.add_table({.id = "layer",
                      .title = "MultiHeadAttention forward, float, B=1, one thread: time, and the "
                               "time that its operations take at the FMA peak",
                      .row_header = "E, H, L",
                      .shows = Report::Shows::overhead});
    for (const LayerProblem& sizes :
         {LayerProblem{.E = 256, .H = 4}, LayerProblem{.E = 384, .H = 12},
          LayerProblem{.E = 768, .H = 12}})
        for (Size L : {16, 32, 64}) {
            LayerProblem problem = sizes;
            problem.L = L;
            const std::string row = std::to_string(problem.E) + ", " + std::to_string(problem.H) +
                                    ", " + std::to_string(L);
            registrar.add<float>({Contender::heed, problem, heed::current_isa()},
                                 {"layer", row, static_cast<double>(L), "heed"});
        }
}

}  // namespace bench
