#pragma once
// How does a training survive the end of its program?
// As a safetensors file: weights, moments of the optimizer, losses, alphabet, and the settings as
// metadata. Written in one step; believed only where it fits.

#include <filesystem>

#include "training_state.hpp"

namespace char_model {

/// A file of that name is replaced when all is written. The same training makes the same bytes.
/// Throws heed::FormatError when the file cannot be written.
void save_checkpoint(const std::filesystem::path& file, const TrainingState& state,
                     const Settings& settings, const Corpus& corpus);

/// The state that was saved; from there, training goes on as if it had never stopped, bit for bit.
/// Throws heed::FormatError for a file that is no checkpoint, or one of other settings or of
/// another text.
[[nodiscard]] TrainingState load_checkpoint(const std::filesystem::path& file,
                                            const Settings& settings, const Corpus& corpus);

}  // namespace char_model
