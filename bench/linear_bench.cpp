// How fast are the products of a linear layer, as a fraction of what the machine can do and beside
// Eigen's? One row of input reads a matrix and hardly computes: it stands beside reading alone.

#include "check_linear.hpp"
#include "contest.hpp"
#include "memory_read.hpp"
#include "native_eigen.hpp"
#include "plain_eigen_linear.hpp"

namespace bench {
namespace {

/// Forward by the module, with the weight that it holds; gradients by the operation, which gives
/// each alone.
template <class T>
class HeedLinear final : public LinearProduct {
  public:
    HeedLinear(const LinearProblem& p, const LinearTensors<T>& t)
        : pass_(p.pass),
          x_(t.x, {p.M, p.K}),
          weight_(t.weight, {p.N, p.K}),
          dy_(t.dy, {p.M, p.N}),
          result_(t.result, {p.result_rows(), p.result_columns()}),
          linear_({.in_features = p.K, .out_features = p.N}) {
        heed::copy(weight_, linear_.weight());
        heed::copy(heed::TensorView<const T, 1>(t.bias, {p.N}), linear_.bias());
        linear_.pack_weights();  // as after loading
    }

    void run() override {
        switch (pass_) {
            case LinearPass::forward:
                return linear_.template forward<2>(x_, result_);
            case LinearPass::dx:
                return heed::linear_backward(x_, weight_, dy_, {.dx = result_});
            case LinearPass::dweight:
                return heed::linear_backward(x_, weight_, dy_, {.dweight = result_});
        }
    }

  private:
    LinearPass pass_;
    heed::TensorView<const T, 2> x_, weight_, dy_;
    heed::TensorView<T, 2> result_;
    heed::Linear<T> linear_;
};

template <class T>
std::unique_ptr<LinearProduct> make_linear(const Case<LinearProblem>& c,
                                           const LinearTensors<T>& tensors) {
    switch (c.contender) {
        case Contender::heed:
            return std::make_unique<HeedLinear<T>>(c.problem, tensors);
        case Contender::eigen:
            return std::make_unique<PlainEigenLinear<T>>(c.problem, tensors);
        case Contender::native_eigen:
            break;
    }
    return make_native_eigen_linear<T>(c.problem, tensors);
}

/// Pieces of the memory that all tasks share.
template <class T>
LinearTensors<T> tensors_of(const LinearProblem& p) {
    const T* const x = normal_numbers<T>(p.M * p.K + p.N * p.K + p.N + p.M * p.N);
    const T *const weight = x + p.M * p.K, *const bias = weight + p.N * p.K;
    return {x, weight, bias, bias + p.N, room_for<T>(p.result_count())};
}

template <class T>
class LinearTask final : public Task {
  public:
    explicit LinearTask(const Case<LinearProblem>& c)
        : problem_(c.problem),
          tensors_(tensors_of<T>(problem_)),
          product_(make_linear<T>(c, tensors_)) {
        std::fill_n(tensors_.result, problem_.result_count(), T(0));
    }

    void run() override { product_->run(); }

    [[nodiscard]] std::string complaint() const override {
        const support::Verdict verdict = check_linear(problem_, tensors_);
        return verdict ? "" : verdict.message;
    }
    [[nodiscard]] double flops() const override { return problem_.flops(); }
    [[nodiscard]] double bytes() const override { return problem_.weight_bytes<T>(); }

  private:
    LinearProblem problem_;
    LinearTensors<T> tensors_;
    std::unique_ptr<LinearProduct> product_;
};

struct Linear {
    using Problem = LinearProblem;

    PassNames names;

    template <class T>
    [[nodiscard]] std::unique_ptr<Task> make_task(const Case<LinearProblem>& c) const {
        return std::make_unique<LinearTask<T>>(c);
    }
    template <class T>
    [[nodiscard]] std::size_t eigen_bytes(const LinearProblem&) const {
        return 0;
    }
};

/// So many floats, nothing but read.
struct ReadProblem {
    Size count;

    template <class Visit>
    void for_each_argument(const Visit& visit) const {
        visit("floats", count);
    }
};

class ReadTask final : public Task {
  public:
    explicit ReadTask(const Case<ReadProblem>& c)
        : isa_(c.isa), count_(c.problem.count), values_(normal_numbers<float>(count_)) {}

    void run() override { benchmark::DoNotOptimize(read_memory(isa_, values_, count_)); }
    [[nodiscard]] std::string complaint() const override { return ""; }
    [[nodiscard]] double flops() const override { return static_cast<double>(count_); }
    [[nodiscard]] double bytes() const override { return flops() * sizeof(float); }

  private:
    heed::Isa isa_;
    Size count_;
    const float* values_;
};

struct Read {
    using Problem = ReadProblem;

    PassNames names{{"read_memory"}, "", ""};

    template <class T>
    [[nodiscard]] std::unique_ptr<Task> make_task(const Case<ReadProblem>& c) const {
        return std::make_unique<ReadTask>(c);
    }
};

struct Shape {
    Size K, N;

    [[nodiscard]] std::string text() const { return std::to_string(K) + " x " + std::to_string(N); }
};

/// The two tables of one pass: products, and a single row, by the memory that it moves.
class LinearTables {
  public:
    LinearTables(LinearPass pass, const std::string& id, const std::string& title, Report& report)
        : pass_(pass),
          id_(id),
          title_("linear layer, float, one thread: " + title),
          report_(report),
          registrar_(report, {{{id, std::string("plain_eigen_").append(id),
                                std::string("plain_eigen_native_").append(id)},
                               id,
                               title_}}) {}

    void add_products(const Sizes& rows, const std::vector<Shape>& shapes) {
        registrar_.add_table("", "", "M, K x N");
        for (const Shape& shape : shapes)
            for (Size M : rows)
                registrar_.add_contest<float>({pass_, M, shape.K, shape.N}, "",
                                              std::to_string(M) + ", " + shape.text(), M);
    }

    void add_single_rows(const std::vector<Shape>& shapes, Registrar<Read>& read) {
        report_.add_table({.id = id_ + "_row",
                           .title = title_ + ", M = 1: memory of the weight or its gradient",
                           .row_header = "K x N",
                           .shows = Report::Shows::bandwidth});
        for (const Shape& shape : shapes) {
            registrar_.add_contest<float>({pass_, 1, shape.K, shape.N}, "_row", shape.text(),
                                          shape.K);
            read.add<float>({Contender::heed, {shape.K * shape.N}, heed::current_isa()},
                            {id_ + "_row", shape.text(), static_cast<double>(shape.K), "reading"});
        }
    }

  private:
    LinearPass pass_;
    std::string id_, title_;
    Report& report_;
    Registrar<Linear> registrar_;
};

}  // namespace

void add_linear_benchmarks(Extent extent, Report& report) {
    const bool quick = extent == Extent::quick;
    const Sizes rows = quick ? Sizes{32, 128} : Sizes{4, 16, 32, 128, 512, 2048};
    const std::vector<Shape> shapes =
        quick ? std::vector<Shape>{{384, 384}, {768, 3072}}
              : std::vector<Shape>{{384, 384}, {384, 1536}, {1536, 384},
                                   {768, 768}, {768, 3072}, {1024, 1024}};
    Registrar<Read> read(report, {});
    for (LinearTables tables :
         {LinearTables(LinearPass::forward, "linear", "x W^T + b", report),
          LinearTables(LinearPass::dx, "linear_dx", "dX = dY W", report),
          LinearTables(LinearPass::dweight, "linear_dweight", "dW += dY^T X", report)}) {
        tables.add_products(rows, shapes);
        tables.add_single_rows(shapes, read);
    }
}

}  // namespace bench
