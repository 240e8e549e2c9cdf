// Does heed mean what ONNX means by attention? Runs the cases of a folder, prints what fails.

#include <algorithm>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "attention_case.hpp"
#include "heed/io/safetensors.hpp"

namespace {

constexpr std::string_view usage =
    R"(usage: heed_conformance DIR

Runs every case DIR/*.safetensors of ONNX's operator Attention through heed and compares all
outputs: within 1e-6, and in the half types within one rounding. A case holds tensors
in.NAME and out.NAME, NAME as in the operator, and metadata attr.NAME for its attributes. Prints a
line for each case that fails, then "N passed, N failed"; the exit status is 0 when some passed and
none failed.

  --help  show this
)";

std::vector<std::filesystem::path> cases_in(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    return paths;
}

std::string failure_of(const std::filesystem::path& path) {
    try {
        return conformance::failure_of(heed::read_safetensors(path));
    } catch (const std::exception& error) {
        return error.what();
    }
}

int run(const std::filesystem::path& folder) {
    int passed = 0, failed = 0;
    for (const auto& path : cases_in(folder)) {
        const std::string failure = failure_of(path);
        ++(failure.empty() ? passed : failed);
        if (!failure.empty())
            std::cout << "FAILED " << path.stem().string() << ": " << failure << '\n';
    }
    std::cout << passed << " passed, " << failed << " failed\n";
    return passed > 0 && failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string_view> arguments(argv + 1, argv + argc);
    if (std::ranges::count(arguments, "--help") > 0) {
        std::cout << usage;
        return 0;
    }
    if (arguments.size() != 1 || arguments[0].starts_with('-')) {
        std::cerr << usage;
        return 2;
    }
    try {
        return run(arguments[0]);
    } catch (const std::filesystem::filesystem_error& error) {
        std::cerr << "heed_conformance: " << error.what() << '\n';
        return 2;
    }
}
