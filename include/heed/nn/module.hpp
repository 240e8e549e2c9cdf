#pragma once
// How do named weights get into a module, and out of it again?
// The one mechanism for all modules: each names its parameters once, and loading, saving and
// counting follow from that. Knows names and shapes, not files.

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "heed/nn/weight_matrix.hpp"
#include "heed/tensor/any_tensor.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

namespace detail {

/// "a, b, c and 4 more", for error messages.
inline std::string names_text(const std::vector<std::string>& names) {
    constexpr std::size_t shown = 8;
    std::string result;
    for (std::size_t i = 0; i < names.size() && i < shown; ++i)
        result += (i > 0 ? ", " : "") + names[i];
    if (names.size() > shown) result += " and " + std::to_string(names.size() - shown) + " more";
    return result;
}

/// How a collection of weights fails to fit a module; told all at once, because a parameter that is
/// missing under one name is often unused under another.
struct WeightProblems {
    std::vector<std::string> missing = {}, unfit = {}, unused = {};

    /// Throws FormatError when there is a problem.
    void refuse() const {
        std::string found;
        const auto tell = [&found](std::string_view what, const std::vector<std::string>& names) {
            if (names.empty()) return;
            found += (found.empty() ? "" : "; ") + std::string(what) + ": " + names_text(names);
        };
        tell("missing", missing);
        tell("of another shape or type", unfit);
        tell("unused", unused);
        if (!found.empty())
            fail<FormatError>("WeightLoader", "the weights must be those of the model; found ",
                              found);
    }
};

/// Number types that AnyTensor::to converts.
[[nodiscard]] inline bool is_convertible(ScalarType type) {
    return type == ScalarType::f16 || type == ScalarType::bf16 || type == ScalarType::f32 ||
           type == ScalarType::f64;
}

}  // namespace detail

/// Loads modules from one collection of weights and keeps account of what was used.
///
///     WeightLoader(weights).load(encoder, "bert.encoder.").ignore("cls.").finish();
class WeightLoader {
  public:
    /// The collection must outlive the loader.
    explicit WeightLoader(const NamedTensors& weights) : weights_(weights) {}

    /// Copies "prefix + parameter name" into every parameter, converting between F16, BF16, F32
    /// and F64. Throws FormatError naming all parameters that are missing or have another shape or
    /// type, before anything is written.
    template <class Module>
    WeightLoader& load(Module& module, const std::string& prefix = "") {
        check(module, prefix).refuse();
        assign(module, prefix);
        return *this;
    }

    /// The same, and the FormatError also names weights under the prefix that are neither the
    /// module's nor ignored nor loaded before.
    template <class Module>
    WeightLoader& load_strictly(Module& module, const std::string& prefix = "") {
        detail::WeightProblems problems = check(module, prefix);
        const std::set<std::string> wanted = parameter_names(module, prefix);
        for (const std::string& name : unused())
            if (name.starts_with(prefix) && !wanted.contains(name)) problems.unused.push_back(name);
        problems.refuse();
        assign(module, prefix);
        return *this;
    }

    /// Declares that weights whose name begins with `prefix` are not needed.
    WeightLoader& ignore(std::string_view prefix) {
        ignored_.emplace_back(prefix);
        return *this;
    }

    /// The weights that were neither loaded nor ignored.
    [[nodiscard]] std::vector<std::string> unused() const {
        std::vector<std::string> names;
        for (const auto& [name, tensor] : weights_)
            if (!was_used(name) && !is_ignored(name)) names.push_back(name);
        return names;
    }

    /// Throws FormatError naming the weights that were neither loaded nor ignored.
    void finish() const { detail::WeightProblems{.unused = unused()}.refuse(); }

  private:
    template <class Module>
    [[nodiscard]] static std::set<std::string> parameter_names(const Module& module,
                                                               const std::string& prefix) {
        std::set<std::string> names;
        Module::visit_parameters(
            module, [&](const std::string& name, auto) { names.insert(name); }, prefix);
        return names;
    }

    template <class Module>
    [[nodiscard]] detail::WeightProblems check(const Module& module,
                                               const std::string& prefix) const {
        detail::WeightProblems problems;
        Module::visit_parameters(
            module,
            [&](const std::string& name, auto parameter) {
                const AnyTensor* found = weights_.find(name);
                const Shape shape = parameter.shape();
                if (found == nullptr)
                    problems.missing.push_back(name);
                else if (!std::equal(found->shape().begin(), found->shape().end(), shape.begin(),
                                     shape.end()) ||
                         !detail::is_convertible(found->scalar_type()))
                    problems.unfit.push_back(name + " " + to_string(*found) + " instead of " +
                                             to_string(shape));
            },
            prefix);
        return problems;
    }

    /// After check: nothing is refused any more.
    template <class Module>
    void assign(Module& module, const std::string& prefix) {
        Module::visit_parameters(module,
                                 detail::AtOnce{[&](const std::string& name, auto parameter) {
                                     using View = decltype(parameter);
                                     using T = typename View::value_type;
                                     copy(weights_.to<T, View::rank()>(name).view(), parameter);
                                     used_.insert(name);
                                 }},
                                 prefix);
    }

    [[nodiscard]] bool was_used(const std::string& name) const { return used_.contains(name); }
    [[nodiscard]] bool is_ignored(const std::string& name) const {
        return std::any_of(ignored_.begin(), ignored_.end(),
                           [&](const std::string& prefix) { return name.starts_with(prefix); });
    }

    const NamedTensors& weights_;
    std::set<std::string> used_;
    std::vector<std::string> ignored_;
};

/// What every module can do with its parameters. `Derived` provides
///
///     template <class Self, class Visitor>
///     static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix);
///
/// which calls visit(prefix + name, view) for each parameter; `Self` is Derived or const Derived.
template <class Derived>
class Module {
  public:
    /// Loads all parameters from the weights under `prefix`. Throws FormatError naming weights that
    /// are missing, have another shape or type, or are there without being used; nothing is written
    /// then. Views of the parameters stay valid.
    void load(const NamedTensors& weights, const std::string& prefix = "") {
        WeightLoader(weights).load_strictly(self(), prefix);
    }

    /// Adds copies of all parameters to the collection, under `prefix`. Throws ArgumentError when a
    /// name is taken.
    void save(NamedTensors& weights, const std::string& prefix = "") const {
        for_each_parameter(
            detail::AtOnce{[&](const std::string& name, auto view) { weights.add(name, view); }},
            prefix);
    }

    /// Calls visit(prefix + name, view) for each parameter, always in the same order. Views that
    /// may be written may be kept: see pack_weights.
    template <class Visitor>
    void for_each_parameter(Visitor&& visit, const std::string& prefix = "") {
        Derived::visit_parameters(self(), visit, prefix);
    }
    template <class Visitor>
    void for_each_parameter(Visitor&& visit, const std::string& prefix = "") const {
        Derived::visit_parameters(self(), visit, prefix);
    }

    /// Number of scalars in all parameters.
    [[nodiscard]] Index parameter_count() const {
        detail::CountParameters counted;
        Derived::visit_parameters(self(), counted, "");
        return counted.count;
    }

    /// Sets every scalar of every parameter to the same value.
    void fill_parameters(double value) {
        Derived::visit_parameters(self(), detail::FillParameters{value}, "");
    }

    /// Where `backward` puts the gradients of this module's parameters: a copy whose parameters are
    /// all 0. backward adds to them, so that `gradients.fill_parameters(0)` begins each step.
    [[nodiscard]] Derived make_gradients() const {
        Derived gradients(self());
        gradients.fill_parameters(0);
        return gradients;
    }

    /// Products read packed copies of the weights, which load, reset_parameters and an optimizer's
    /// step renew. A view that may be written (weight(), for_each_parameter) ends that for its
    /// matrix, since it may be written at any time: products then read the matrix itself, with the
    /// same result, a little slower. This call packs the weights as they are now; whoever has kept
    /// such a view calls it again after writing.
    void pack_weights() { Derived::visit_parameters(self(), detail::PackMatrices{}, ""); }

    /// Keeps the weights of products as W alone: half or bfloat16, or std::int8_t with a scale for
    /// each output; they are computed with in float. float keeps them as they are, packed, in half
    /// the memory. Other parameters (biases, norms, embeddings) stay. For inference: afterwards
    /// such weights cannot be viewed, saved, loaded or trained, which throws ArgumentError. Throws
    /// ArgumentError for whole numbers of weights that are not finite.
    /// Rounding: half a unit of W; for int8_t half of the output's largest magnitude / 127.
    template <class W>
    requires(std::same_as<W, float> || NarrowWeight<W>) void store_weights_as() {
        Derived::visit_parameters(self(), detail::StoreMatrices<W>{}, "");
    }

  private:
    [[nodiscard]] Derived& self() { return static_cast<Derived&>(*this); }
    [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }
};

namespace detail {

/// Names and shapes of a module's parameters.
template <class M>
[[nodiscard]] std::vector<std::string> parameter_shapes(const M& module) {
    std::vector<std::string> shapes;
    module.for_each_parameter(AtOnce{[&shapes](const std::string& name, const auto& view) {
        shapes.push_back(name + " " + to_string(view.shape()));
    }});
    return shapes;
}

/// The first parameter of another module that this one has in another shape, or not at all.
template <class M>
[[nodiscard]] std::string first_difference(const M& module, const M& other) {
    const std::vector<std::string> expected = parameter_shapes(module);
    const std::vector<std::string> found = parameter_shapes(other);
    std::size_t i = 0;
    while (i < expected.size() && i < found.size() && expected[i] == found[i]) ++i;
    const auto text = [i](const std::vector<std::string>& shapes) {
        return i < shapes.size() ? shapes[i] : std::string("no more");
    };
    return text(found) + " instead of " + text(expected);
}

/// The gradients of a module's parameters live in another module, of the same sizes. Throws
/// ArgumentError for the module itself, ShapeError for other sizes.
template <class M>
void require_gradients(std::string_view where, const M& module, const M& gradients) {
    if (&gradients == &module)
        fail<ArgumentError>(where, "the gradients must be another module, as make_gradients ",
                            "returns it; found the module itself");
    if (!module.has_sizes_of(gradients))
        fail<ShapeError>(where, "the gradients must have the parameters of the module; found ",
                         first_difference(module, gradients));
}

}  // namespace detail
}  // namespace heed::inline v0
