#pragma once
// What decides how a run of training ends?
// The numbers that every step depends on; two runs with the same settings and text are the same.

#include <cstdint>

#include "heed/base/checked_size.hpp"

namespace char_model {

using heed::Index;

struct Settings {
    // The model.
    Index layers = 3;
    Index heads = 4;
    Index dim = 128;         ///< width of a letter's vector, d_model
    Index hidden_dim = 512;  ///< of the feed-forward networks
    Index context = 64;      ///< letters that it sees at most

    // A step.
    Index batch = 16;  ///< windows of `context` letters

    // The way.
    Index steps = 3000;
    Index warmup_steps = 200;
    double peak_rate = 4e-3;
    double floor_rate = 1e-4;
    double weight_decay = 0.1;
    double max_gradient_norm = 1.0;
    std::uint64_t seed = 1;

    // The judge.
    Index validate_every = 100;      ///< steps
    Index validation_windows = 128;  ///< of `context` letters; a multiple of `batch`

    /// A small model and a short way: some seconds.
    static Settings quick() {
        return {.layers = 2,
                .heads = 2,
                .dim = 64,
                .hidden_dim = 256,
                .context = 32,
                .steps = 1000,
                .warmup_steps = 60,
                .peak_rate = 6e-3};
    }

    /// Calls visit(name, value) for each of them.
    template <class Visitor>
    void visit(const Visitor& visit) const {
        visit("layers", layers);
        visit("heads", heads);
        visit("dim", dim);
        visit("hidden_dim", hidden_dim);
        visit("context", context);
        visit("batch", batch);
        visit("steps", steps);
        visit("warmup_steps", warmup_steps);
        visit("peak_rate", peak_rate);
        visit("floor_rate", floor_rate);
        visit("weight_decay", weight_decay);
        visit("max_gradient_norm", max_gradient_norm);
        visit("seed", seed);
        visit("validate_every", validate_every);
        visit("validation_windows", validation_windows);
    }
};

}  // namespace char_model
