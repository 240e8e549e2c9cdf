#pragma once
// Which parameter of one module belongs to which of another?
// Walks modules that have the same parameters in the same order; refuses others before it begins.

#include <any>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "heed/nn/module.hpp"

namespace heed::inline v0 {
namespace detail {

/// The parameters of a module, in its order; const views where M is const. For use at once: the
/// module must outlive the list, and not be run meanwhile.
template <class M>
class ParameterList {
  public:
    explicit ParameterList(M& module) {
        module.for_each_parameter(AtOnce{[this](const std::string& name, auto view) {
            parameters_.push_back({name, view});
        }});
    }

    [[nodiscard]] std::size_t size() const { return parameters_.size(); }

    /// The parameter at this place, or null unless it is like `other` and has this name.
    template <class T, int Rank>
    [[nodiscard]] auto find(std::size_t place, const std::string& name,
                            TensorView<T, Rank> other) const {
        using Value = std::remove_const_t<T>;
        using View = TensorView<std::conditional_t<std::is_const_v<M>, const Value, Value>, Rank>;
        const View* found = nullptr;
        if (place < size() && parameters_[place].name == name)
            found = std::any_cast<View>(&parameters_[place].view);
        return found != nullptr && found->shape() == other.shape() ? found : nullptr;
    }

  private:
    /// The view's number type and rank are the business of whoever asks for it.
    struct Parameter {
        std::string name;
        std::any view;
    };
    std::vector<Parameter> parameters_;
};

/// Calls f(name, view in the module, pointers to its likes in the lists ..); returns the number of
/// parameters.
template <class F, class M, class... Lists>
std::size_t for_each_beside(const F& f, M& module, const Lists&... lists) {
    std::size_t place = 0;
    module.for_each_parameter(AtOnce{[&](const std::string& name, auto view) {
        f(name, view, lists.find(place, name, view)...);
        ++place;
    }});
    return place;
}

/// Calls f(name, view in the module, view in the first of the others, ..) for each parameter of
/// the module. Throws ShapeError, before the first call, unless the others have parameters of the
/// same names, number types and shapes in the same order.
template <class F, class M, class... Others>
void for_each_side_by_side(std::string_view where, const F& f, M& module, Others&... others) {
    const auto walk = [&](const ParameterList<Others>&... lists) {
        const std::size_t count = for_each_beside(
            [&](const std::string& name, auto view, const auto*... found) {
                if (((found == nullptr) || ...))
                    fail<ShapeError>(where, "gradients and state must have the parameters of the ",
                                     "model; found none like ", name, " ", view.shape());
            },
            module, lists...);
        if (((lists.size() != count) || ...))
            fail<ShapeError>(where, "gradients and state must have the parameters of the model; ",
                             "found more than its ", count);
        for_each_beside([&](const std::string& name, auto view,
                            const auto*... found) { f(name, view, *found...); },
                        module, lists...);
    };
    walk(ParameterList<Others>(others)...);
}

}  // namespace detail
}  // namespace heed::inline v0
