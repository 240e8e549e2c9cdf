#pragma once
// Where do the examples keep what they fetched?
// Reads two variables of the environment; asks nothing of the disk.

#include <cstdlib>
#include <filesystem>

namespace examples {

/// The folder that the scripts fetch_*.py and fetch_*.sh write to.
[[nodiscard]] inline std::filesystem::path cache_folder() {
    const auto folder = [](const char* variable) {
        const char* value = std::getenv(variable);
        return std::filesystem::path(value == nullptr ? "" : value);
    };
    const auto cache =
        folder("XDG_CACHE_HOME").empty() ? folder("HOME") / ".cache" : folder("XDG_CACHE_HOME");
    return cache / "heed";
}

}  // namespace examples
