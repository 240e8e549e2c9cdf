#pragma once
// Where are the weights of an example, if they are here at all?
// Asks the disk; reads no weights.

#include <filesystem>
#include <string>

#include "common/cache_folder.hpp"

namespace examples_test {

/// The folder with the model.safetensors of this model, beside the checkout or where the example's
/// fetch_weights.py puts it; empty when there is none.
inline std::filesystem::path weights_folder(const std::string& model) {
    for (const auto& cache : {std::filesystem::path(HEED_SHARED_DIR), examples::cache_folder()})
        if (std::filesystem::exists(cache / model / "model.safetensors")) return cache / model;
    return {};
}

}  // namespace examples_test
