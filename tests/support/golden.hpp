#pragma once
// What did PyTorch answer? One case of a file in tests/golden, whose README.md explains the names.
// Reads the file; knows no module and no operation.

#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "heed/io/safetensors.hpp"
#include "heed/tensor/any_tensor.hpp"

namespace support {

/// tests/golden/<name>.safetensors
class GoldenFile {
  public:
    explicit GoldenFile(const std::string& name)
        : tensors_(heed::read_safetensors(std::string(HEED_TEST_DATA_DIR "/") + name +
                                          ".safetensors")) {}

    [[nodiscard]] const heed::NamedTensors& tensors() const { return tensors_; }

    [[nodiscard]] std::vector<std::string> cases() const {
        std::istringstream words(tensors_.metadata().at("cases"));
        std::vector<std::string> names;
        for (std::string name; words >> name;) names.push_back(name);
        return names;
    }

  private:
    heed::NamedTensors tensors_;
};

/// One case. The file must outlive it.
class GoldenCase {
  public:
    GoldenCase(const GoldenFile& file, std::string name)
        : tensors_(file.tensors()), name_(std::move(name)) {}

    [[nodiscard]] const std::string& name() const { return name_; }

    /// Prefix of the parameters' names in the file.
    [[nodiscard]] std::string parameter_prefix() const { return name_ + "/param/"; }

    /// The parameters under their own names.
    [[nodiscard]] heed::NamedTensors parameters() const {
        heed::NamedTensors result;
        const std::string prefix = parameter_prefix();
        for (const auto& [name, tensor] : tensors_)
            if (name.starts_with(prefix)) result.add(name.substr(prefix.size()), tensor);
        return result;
    }

    [[nodiscard]] std::optional<std::string> argument(const std::string& name) const {
        const auto place = tensors_.metadata().find(name_ + "." + name);
        if (place == tensors_.metadata().end()) return std::nullopt;
        return place->second;
    }
    [[nodiscard]] bool flag(const std::string& name) const { return argument(name) == "true"; }
    [[nodiscard]] heed::Index integer(const std::string& name) const {
        return std::stoll(argument(name).value());
    }
    [[nodiscard]] std::optional<double> real(const std::string& name) const {
        const auto text = argument(name);
        return text ? std::optional(std::stod(*text)) : std::nullopt;
    }

    /// An input or output, or null where the case has none of that name.
    [[nodiscard]] const heed::AnyTensor* find_input(const std::string& name) const {
        return tensors_.find(name_ + "/in/" + name);
    }
    [[nodiscard]] const heed::AnyTensor* find_output(const std::string& name) const {
        return tensors_.find(name_ + "/out/" + name);
    }
    [[nodiscard]] const heed::AnyTensor& input(const std::string& name) const {
        return tensors_.at(name_ + "/in/" + name);
    }
    [[nodiscard]] const heed::AnyTensor& output(const std::string& name) const {
        return tensors_.at(name_ + "/out/" + name);
    }

  private:
    const heed::NamedTensors& tensors_;
    std::string name_;
};

/// The elements of a float tensor of any rank, in row-major order.
[[nodiscard]] inline std::vector<float> float_values(const heed::AnyTensor& tensor) {
    if (tensor.scalar_type() != heed::ScalarType::f32)
        throw std::invalid_argument("expected F32; found " + to_string(tensor));
    std::vector<float> values(tensor.bytes().size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes().data(), tensor.bytes().size());
    return values;
}

}  // namespace support
