#pragma once
// A model of a few parameters with names, ranks and sizes that differ.

#include <string>

#include "heed/nn/layers.hpp"

namespace train_test {

template <class T>
class SmallModel : public heed::Module<SmallModel<T>> {
  public:
    explicit SmallModel(heed::Index width = 3)
        : table({.count = 4, .features = width}),
          norm({.features = width}),
          linear({.in_features = width, .out_features = 2}) {}

    heed::Embedding<T> table;
    heed::LayerNorm<T> norm;
    heed::Linear<T> linear;

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        heed::Embedding<T>::visit_parameters(self.table, visit, prefix + "table.");
        heed::LayerNorm<T>::visit_parameters(self.norm, visit, prefix + "norm.");
        heed::Linear<T>::visit_parameters(self.linear, visit, prefix + "linear.");
    }
};

}  // namespace train_test
