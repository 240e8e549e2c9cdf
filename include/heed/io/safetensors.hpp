#pragma once
// Which tensors does a safetensors file hold, and how is one written?
// Believes nothing in a file: all of its header is checked before memory for a tensor is taken.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/io/file.hpp"
#include "heed/tensor/any_tensor.hpp"

namespace heed::inline v0 {

namespace detail {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian, and so must the machine be");

inline constexpr std::string_view read_name = "read_safetensors";
inline constexpr std::string_view write_name = "write_safetensors";

/// The limit of the reference implementation.
inline constexpr std::uint64_t longest_header = 100'000'000;

/// What the header says of one tensor; its bytes are [begin, end) behind the header.
struct HeaderEntry {
    std::string name{};
    ScalarType type{};
    std::vector<Index> shape{};
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

/// A name from a file, for an error message: quoted, short, and without control characters.
[[nodiscard]] inline std::string in_quotes(std::string_view name) {
    std::string result = "'";
    for (char letter : name.substr(0, 200))
        result += static_cast<unsigned char>(letter) < 0x20 || letter == 0x7F ? '?' : letter;
    return result + (name.size() > 200 ? "...'" : "'");
}

/// Receives the header piece by piece from the JSON parser, which does not recurse. Anything but
/// {"__metadata__": {text: text}, name: {"dtype": text, "shape": [..], "data_offsets": [b, e]}}
/// is an error at once, so that nothing is ever nested deeper than that.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
  public:
    explicit HeaderHandler(std::string origin) : origin_(std::move(origin)) {}

    std::vector<HeaderEntry> entries;
    NamedTensors::Metadata metadata;

    [[noreturn]] void refuse(std::string_view rule, std::string_view found) const {
        fail<FormatError>(read_name, rule, "; found ", found, origin_);
    }

    bool null() override { refuse_value("null"); }
    bool boolean(bool) override { refuse_value("true or false"); }
    bool number_integer(number_integer_t) override { refuse_value("a negative number"); }
    bool number_float(number_float_t, const string_t&) override {
        refuse_value("a number with a fraction or beyond 64 bits");
    }
    bool binary(binary_t&) override { refuse_value("binary"); }

    bool number_unsigned(number_unsigned_t value) override {
        if (place_ == Place::offsets && offsets_.size() < 2) {
            offsets_.push_back(value);
        } else if (place_ == Place::shape && std::in_range<Index>(value)) {
            entry_.shape.push_back(static_cast<Index>(value));
        } else {
            refuse_value("the number " + std::to_string(value));
        }
        return true;
    }

    bool string(string_t& text) override {
        if (place_ == Place::metadata) {
            metadata.insert_or_assign(key_, text);
        } else if (place_ == Place::tensor && key_ == "dtype") {
            entry_.type = scalar_type(text);
        } else {
            refuse_value("the text " + in_quotes(text));
        }
        return true;
    }

    bool start_object(std::size_t) override {
        if (place_ == Place::start) {
            place_ = Place::top;
        } else if (place_ == Place::top && key_ == "__metadata__") {
            place_ = Place::metadata;
        } else if (place_ == Place::top) {
            place_ = Place::tensor;
            entry_ = HeaderEntry{.name = key_};
            offsets_.clear();
        } else {
            refuse_value("an object");
        }
        keys_.emplace_back();
        return true;
    }

    bool key(string_t& name) override {
        if (!keys_.back().insert(name).second)
            refuse("a key must not repeat", in_quotes(name) + " twice");
        if (place_ == Place::tensor && name != "dtype" && name != "shape" && name != "data_offsets")
            refuse("a tensor has dtype, shape and data_offsets only",
                   in_quotes(name) + " in " + in_quotes(entry_.name));
        key_ = std::move(name);
        return true;
    }

    bool end_object() override {
        if (place_ == Place::tensor) finish_tensor();
        keys_.pop_back();
        place_ = Place::top;
        return true;
    }

    bool start_array(std::size_t) override {
        if (place_ != Place::tensor || key_ == "dtype") refuse_value("an array");
        place_ = key_ == "shape" ? Place::shape : Place::offsets;
        return true;
    }

    bool end_array() override {
        place_ = Place::tensor;
        return true;
    }

    bool parse_error(std::size_t position, const std::string&,
                     const nlohmann::json::exception&) override {
        refuse("the header must be JSON in UTF-8",
               "an error at byte " + std::to_string(position) + " of it");
    }

  private:
    enum class Place { start, top, metadata, tensor, shape, offsets };

    [[noreturn]] void refuse_value(const std::string& found) const {
        switch (place_) {
            case Place::start:
                refuse("the header must be a JSON object", found);
            case Place::top:
                refuse(in_quotes(key_) + " must be an object", found);
            case Place::metadata:
                refuse("metadata must be text", found + " for " + in_quotes(key_));
            case Place::tensor:
                refuse("dtype must be text, shape and data_offsets arrays",
                       found + " for " + in_quotes(key_) + " of " + in_quotes(entry_.name));
            case Place::shape:
                refuse("a shape must hold whole numbers below 2^63",
                       found + " in that of " + in_quotes(entry_.name));
            case Place::offsets:
                break;
        }
        refuse("data_offsets must be two whole numbers",
               found + " in those of " + in_quotes(entry_.name));
    }

    [[nodiscard]] ScalarType scalar_type(std::string_view name) const {
        const auto place = std::find_if(scalar_type_facts.begin(), scalar_type_facts.end(),
                                        [&](const auto& facts) { return facts.name == name; });
        if (place == scalar_type_facts.end())
            refuse("a dtype must be one that heed knows",
                   in_quotes(name) + " for " + in_quotes(entry_.name));
        return static_cast<ScalarType>(place - scalar_type_facts.begin());
    }

    void finish_tensor() {
        if (keys_.back().size() != 3)
            refuse("a tensor needs dtype, shape and data_offsets",
                   std::to_string(keys_.back().size()) + " of them for " + in_quotes(entry_.name));
        if (offsets_.size() != 2)
            refuse("data_offsets must be two whole numbers",
                   std::to_string(offsets_.size()) + " for " + in_quotes(entry_.name));
        entry_.begin = offsets_[0];
        entry_.end = offsets_[1];
        entries.push_back(std::move(entry_));
    }

    std::string origin_;
    Place place_ = Place::start;
    std::vector<std::set<std::string, std::less<>>> keys_;  ///< seen in each open object
    std::string key_;
    HeaderEntry entry_;
    std::vector<std::uint64_t> offsets_;
};

/// Bytes of a tensor by its dtype and shape.
[[nodiscard]] inline std::uint64_t stated_bytes(const HeaderHandler& header,
                                                const HeaderEntry& entry) {
    try {
        return dense_bytes<FormatError>(read_name, entry.type, entry.shape);
    } catch (const FormatError&) {
        header.refuse("a tensor's bytes must fit into 63 bits",
                      in_quotes(entry.name) + " of shape " + list_text(entry.shape));
    }
}

/// Sorts the entries by place. They must follow each other without hole or overlap, be as long as
/// dtype and shape say, and fill the data exactly.
inline void check_layout(HeaderHandler& header, std::uint64_t data_bytes) {
    std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
        return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::uint64_t position = 0;
    for (const HeaderEntry& entry : header.entries) {
        const std::string range = in_quotes(entry.name) + " at [" + std::to_string(entry.begin) +
                                  ", " + std::to_string(entry.end) + ")";
        if (entry.end < entry.begin || entry.end > data_bytes)
            header.refuse("a tensor must lie inside the data",
                          range + " of " + std::to_string(data_bytes) + " bytes");
        if (entry.begin < position)
            header.refuse("tensors must not overlap",
                          range + ", others up to " + std::to_string(position));
        if (entry.begin > position)
            header.refuse("tensors must follow each other without a hole",
                          range + ", others up to " + std::to_string(position));
        const std::uint64_t stated = stated_bytes(header, entry);
        if (stated != entry.end - entry.begin)
            header.refuse("data_offsets must agree with dtype and shape",
                          range + ", but " + std::to_string(stated) + " bytes by shape " +
                              list_text(entry.shape));
        position = entry.end;
    }
    if (position != data_bytes)
        header.refuse("tensors must fill the file",
                      std::to_string(data_bytes - position) + " bytes behind the last");
}

/// Reads the header, all of it checked, sorted by place.
template <class Reader>
[[nodiscard]] HeaderHandler read_header(Reader& reader) {
    HeaderHandler header(reader.origin());
    std::uint64_t length = 0;
    if (reader.size() < sizeof(length))
        header.refuse("a file must begin with 8 bytes of header length",
                      std::to_string(reader.size()) + " bytes");
    reader.read(std::as_writable_bytes(std::span(&length, 1)));
    const std::uint64_t rest = reader.size() - sizeof(length);
    if (length > std::min(longest_header, rest))
        header.refuse("the header must fit into the file and into 100,000,000 bytes",
                      "length " + std::to_string(length) + ", bytes left " + std::to_string(rest));

    std::string text(static_cast<std::size_t>(length), '\0');
    reader.read(std::as_writable_bytes(std::span(text)));
    // The JSON parser would skip a byte order mark, and takes a zero byte for the end.
    if (!text.starts_with('{'))
        header.refuse("the header must begin with '{'", text.empty() ? "nothing" : "another byte");
    if (text.find('\0') != std::string::npos)
        header.refuse("the header must be JSON in UTF-8",
                      "a zero byte at " + std::to_string(text.find('\0')) + " of it");
    nlohmann::json::sax_parse(text.begin(), text.end(), &header);
    check_layout(header, rest - length);
    return header;
}

/// A byte of a BOOL tensor must be 0 or 1: nothing else is a bool.
inline void check_flags(const HeaderHandler& header, const HeaderEntry& entry,
                        std::span<const std::byte> bytes) {
    for (std::byte byte : bytes)
        if (byte > std::byte{1})
            header.refuse("a BOOL must be 0 or 1", std::to_string(std::to_integer<int>(byte)) +
                                                       " in " + in_quotes(entry.name));
}

template <class Reader>
[[nodiscard]] NamedTensors read_tensors(Reader reader) {
    HeaderHandler header = read_header(reader);
    NamedTensors tensors;
    tensors.metadata() = std::move(header.metadata);
    // Checked to lie one after another, so that they can be read as they come.
    for (HeaderEntry& entry : header.entries) {
        AnyTensor& tensor = tensors.add(entry.name, AnyTensor(entry.type, std::move(entry.shape)));
        reader.read(tensor.bytes());
        if (entry.type == ScalarType::boolean) check_flags(header, entry, tensor.bytes());
    }
    return tensors;
}

/// A text as JSON. Throws FormatError unless it is UTF-8.
[[nodiscard]] inline std::string json_text(std::string_view text) {
    try {
        return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
        fail<FormatError>(write_name, "names and metadata must be UTF-8; found ", in_quotes(text));
    }
}

/// The tensors in the order of their bytes: large elements first, so that each tensor is aligned
/// to its element size.
[[nodiscard]] inline std::vector<const NamedTensors::Tensors::value_type*> file_order(
    const NamedTensors& tensors) {
    std::vector<const NamedTensors::Tensors::value_type*> order;
    for (const auto& named : tensors) order.push_back(&named);
    std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
        return element_bytes(a->second.scalar_type()) > element_bytes(b->second.scalar_type());
    });
    return order;
}

/// Length and text of the header, filled up with blanks to a multiple of 8 bytes.
[[nodiscard]] inline std::string header_bytes(const NamedTensors& tensors) {
    std::string entries;
    if (!tensors.metadata().empty()) {
        std::string pairs;
        for (const auto& [key, value] : tensors.metadata())
            pairs += (pairs.empty() ? "" : ",") + json_text(key) + ":" + json_text(value);
        entries = "\"__metadata__\":{" + pairs + "}";
    }
    CheckedSize<FormatError> end(write_name, 0);
    for (const auto* named : file_order(tensors)) {
        const auto& [name, tensor] = *named;
        if (name == "__metadata__")
            fail<FormatError>(write_name, "a tensor must not be named '__metadata__'; found one");
        const std::size_t begin = end.bytes();
        end += tensor.bytes().size();
        entries += (entries.empty() ? "" : ",") + json_text(name) + ":{\"dtype\":\"" +
                   to_string(tensor.scalar_type()) + "\",\"shape\":" + list_text(tensor.shape()) +
                   ",\"data_offsets\":[" + std::to_string(begin) + "," +
                   std::to_string(end.bytes()) + "]}";
    }
    std::string text = "{" + entries + "}";
    text.resize((text.size() + 7) / 8 * 8, ' ');
    if (text.size() > longest_header)
        fail<FormatError>(write_name, "the header must fit into 100,000,000 bytes; found ",
                          text.size());
    const auto length = static_cast<std::uint64_t>(text.size());
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

}  // namespace detail

/// All tensors of a safetensors file, and its metadata.
///
/// The whole header is checked before memory for any tensor is taken: its length, JSON without
/// duplicate or unknown keys, known dtypes, sizes in 64 bits, tensors side by side from the first
/// byte of the data to the last. Memory needed beyond the header is the size of the file.
///
/// Throws FormatError "[read_safetensors] rule; found ... in 'path'" for anything else, and for
/// what is no regular file. Source: github.com/huggingface/safetensors, format of version 0.
[[nodiscard]] inline NamedTensors read_safetensors(const std::filesystem::path& path) {
    return detail::read_tensors(detail::FileReader(detail::read_name, path));
}

/// The same from bytes in memory, at any address.
[[nodiscard]] inline NamedTensors read_safetensors(std::span<const std::byte> bytes) {
    return detail::read_tensors(detail::MemoryReader(bytes));
}

/// Writes a safetensors file. The same tensors make the same bytes. The data of every tensor is
/// aligned to its element size. A file of that name is replaced in one step when all is written;
/// on failure it stays as it was. Throws FormatError when names or metadata are not UTF-8, or
/// when the file cannot be written.
inline void write_safetensors(const std::filesystem::path& path, const NamedTensors& tensors) {
    const std::string header = detail::header_bytes(tensors);
    detail::ReplacementFile file(detail::write_name, path);
    file.write(std::as_bytes(std::span(header)));
    for (const auto* named : detail::file_order(tensors)) file.write(named->second.bytes());
    file.keep();
}

}  // namespace heed::inline v0
