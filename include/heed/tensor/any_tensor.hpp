#pragma once
// How are tensors held whose number type and rank are known only when the program runs?
// Owns their bytes and their names; converts between floating types; knows no file format.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

/// Number types that files may hold. The 8-bit floats can be carried, but not viewed.
enum class ScalarType {
    boolean,
    u8,
    i8,
    f8_e5m2,
    f8_e4m3,
    i16,
    u16,
    f16,
    bf16,
    i32,
    u32,
    f32,
    f64,
    i64,
    u64,
};

namespace detail {

/// Name (as in safetensors files) and size of each ScalarType, in the order of the enumeration.
struct ScalarTypeFacts {
    std::string_view name;
    std::size_t bytes;
};
inline constexpr std::array<ScalarTypeFacts, 15> scalar_type_facts{{
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
}};

template <class... Types>
struct TypeList {
    static constexpr std::size_t size = sizeof...(Types);

    /// Position of T in the list; `size` when it is not there.
    template <class T>
    static constexpr std::size_t position() {
        std::size_t i = 0;
        (void)((std::same_as<T, Types> ? false : (++i, true)) && ...);
        return i;
    }
};

/// The C++ type of each ScalarType, in the order of the enumeration; void where there is none.
using ScalarTypeElements =
    TypeList<bool, std::uint8_t, std::int8_t, void, void, std::int16_t, std::uint16_t, half,
             bfloat16, std::int32_t, std::uint32_t, float, double, std::int64_t, std::uint64_t>;
static_assert(ScalarTypeElements::size == scalar_type_facts.size());

[[nodiscard]] inline std::size_t element_bytes(ScalarType type) {
    return scalar_type_facts[static_cast<std::size_t>(type)].bytes;
}

/// Bytes of a dense tensor. An extent of 0 makes none, but the others must fit all the same, so
/// that strides can always be formed. Throws `ErrorKind` when that needs more than 63 bits.
template <class ErrorKind>
[[nodiscard]] std::size_t dense_bytes(std::string_view where, ScalarType type,
                                      std::span<const Index> shape) {
    CheckedSize<ErrorKind> bytes(where, element_bytes(type));
    bool empty = false;
    for (Index extent : shape) {
        bytes *= static_cast<std::uint64_t>(std::max<Index>(extent, 1));
        empty |= extent == 0;
    }
    return empty ? 0 : bytes.bytes();
}

/// The number of letters to insert, remove or replace to make one word the other.
[[nodiscard]] inline std::size_t edit_distance(std::string_view a, std::string_view b) {
    // row[j] is the distance between the letters of a seen so far and the first j of b.
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (char letter : a) {
        std::size_t diagonal = std::exchange(row[0], row[0] + 1);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (letter == b[j - 1] ? 0 : 1);
            diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
        }
    }
    return row.back();
}

}  // namespace detail

/// "F32", as in safetensors files.
[[nodiscard]] inline std::string to_string(ScalarType type) {
    return std::string(detail::scalar_type_facts[static_cast<std::size_t>(type)].name);
}

/// Element types that have a ScalarType: bool, integers of 8 to 64 bits, half, bfloat16, float,
/// double.
template <class T>
concept ElementScalar = detail::ScalarTypeElements::position<T>()
< detail::ScalarTypeElements::size && !std::same_as<T, void>;

/// The ScalarType whose elements are of type T.
template <ElementScalar T>
inline constexpr auto scalar_type_of =
    static_cast<ScalarType>(detail::ScalarTypeElements::position<T>());

/// A dense, row-major tensor of any number type and rank (0 included) that owns its bytes, 64-byte
/// aligned. What it holds is asked for by view() and to(), which check type and rank.
class AnyTensor {
  public:
    /// Zeros. Throws ShapeError for a negative extent or when the bytes do not fit into 63 bits.
    AnyTensor(ScalarType type, std::vector<Index> shape)
        : type_(type), shape_(std::move(shape)), bytes_(checked_bytes()) {}

    /// A dense copy of a tensor or view.
    template <TensorLike X>
    requires ElementScalar<ElementOf<X>>
    explicit AnyTensor(const X& tensor) : AnyTensor(scalar_type_of<ElementOf<X>>, extents(tensor)) {
        const TensorView<const ElementOf<X>, X::rank()> source = tensor;
        auto* const elements = reinterpret_cast<ElementOf<X>*>(bytes_.data());
        copy(source, TensorView<ElementOf<X>, X::rank()>(elements, source.shape()));
    }

    [[nodiscard]] ScalarType scalar_type() const { return type_; }
    [[nodiscard]] const std::vector<Index>& shape() const { return shape_; }
    [[nodiscard]] std::span<const std::byte> bytes() const {
        return {bytes_.data(), bytes_.size()};
    }
    [[nodiscard]] std::span<std::byte> bytes() { return {bytes_.data(), bytes_.size()}; }

    /// The elements as they are. A tensor of rank 0 is seen as one element of rank 1.
    /// Throws FormatError, which uses `name` for this tensor, unless number type and rank agree.
    template <ElementScalar T, int Rank>
    [[nodiscard]] TensorView<const T, Rank> view(std::string_view name = "tensor") const {
        if (type_ != scalar_type_of<T> || !has_rank(Rank))
            detail::fail<FormatError>("AnyTensor::view", name, " must be ", scalar_type_of<T>,
                                      " of rank ", Rank, "; found ", *this);
        return view_as<T, Rank>();
    }

    /// A copy, converted between F16, BF16, F32 and F64 where needed, as IEEE 754 rounds.
    /// Throws FormatError, which uses `name` for this tensor, for other number types or ranks.
    template <StorageScalar T, int Rank>
    [[nodiscard]] Tensor<T, Rank> to(std::string_view name = "tensor") const {
        if (!has_rank(Rank)) fail_conversion(name, Rank);
        switch (type_) {
            case ScalarType::f16:
                return converted<T, half, Rank>();
            case ScalarType::bf16:
                return converted<T, bfloat16, Rank>();
            case ScalarType::f32:
                return converted<T, float, Rank>();
            case ScalarType::f64:
                return converted<T, double, Rank>();
            default:
                fail_conversion(name, Rank);
        }
    }

    /// "F32 [2, 3]"
    friend std::string to_string(const AnyTensor& tensor) {
        return to_string(tensor.type_) + " " + detail::list_text(tensor.shape_);
    }

    /// True when number type, shape and every byte agree.
    friend bool operator==(const AnyTensor& a, const AnyTensor& b) {
        return a.type_ == b.type_ && a.shape_ == b.shape_ &&
               std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin());
    }

  private:
    template <class X>
    [[nodiscard]] static std::vector<Index> extents(const X& tensor) {
        const Shape shape = tensor.shape();
        return {shape.begin(), shape.end()};
    }

    [[nodiscard]] std::size_t checked_bytes() const {
        for (Index extent : shape_)
            if (extent < 0)
                detail::fail<ShapeError>("AnyTensor", "an extent must be 0 or more; found ",
                                         detail::list_text(shape_));
        return detail::dense_bytes<ShapeError>("AnyTensor", type_, shape_);
    }

    [[nodiscard]] bool has_rank(int rank) const {
        return std::max<std::size_t>(shape_.size(), 1) == static_cast<std::size_t>(rank);
    }

    template <class T, int Rank>
    [[nodiscard]] TensorView<const T, Rank> view_as() const {
        std::array<Index, Rank> extents{1};
        std::copy(shape_.begin(), shape_.end(), extents.begin());
        return {reinterpret_cast<const T*>(bytes_.data()), Shape<Rank>(extents)};
    }

    template <class To, class From, int Rank>
    [[nodiscard]] Tensor<To, Rank> converted() const {
        const auto source = view_as<From, Rank>();
        Tensor<To, Rank> result(source.shape());
        copy(source, result.view());
        return result;
    }

    [[noreturn]] void fail_conversion(std::string_view name, int rank) const {
        detail::fail<FormatError>("AnyTensor::to", name, " must be F16, BF16, F32 or F64 of rank ",
                                  rank, "; found ", *this);
    }

    ScalarType type_;
    std::vector<Index> shape_;
    detail::AlignedArray<std::byte> bytes_;
};

/// Tensors by name, in the order of their names, and texts about all of them (metadata): what a
/// weight file holds.
class NamedTensors {
  public:
    using Tensors = std::map<std::string, AnyTensor, std::less<>>;
    using Metadata = std::map<std::string, std::string, std::less<>>;

    /// Throws ArgumentError when the name is taken.
    AnyTensor& add(std::string name, AnyTensor tensor) {
        const auto [place, is_new] = tensors_.try_emplace(std::move(name), std::move(tensor));
        if (!is_new)
            detail::fail<ArgumentError>("NamedTensors::add", "a name must be new; found '",
                                        place->first, "' twice");
        return place->second;
    }

    /// Adds a dense copy of a tensor or view. Throws ArgumentError when the name is taken.
    template <TensorLike X>
    AnyTensor& add(std::string name, const X& tensor) {
        return add(std::move(name), AnyTensor(tensor));
    }

    /// The tensor of that name, or null.
    [[nodiscard]] const AnyTensor* find(std::string_view name) const {
        const auto place = tensors_.find(name);
        return place == tensors_.end() ? nullptr : &place->second;
    }

    /// The tensor of that name. Throws FormatError when there is none, with the name that is
    /// spelled most like it.
    [[nodiscard]] const AnyTensor& at(std::string_view name) const {
        if (const AnyTensor* tensor = find(name)) return *tensor;
        const std::string_view near = nearest(name);
        detail::fail<FormatError>("NamedTensors::at", "a tensor must be named '", name,
                                  "'; found none", near.empty() ? "" : ", but '", near,
                                  near.empty() ? "" : "'");
    }

    /// at(name) as a view of its elements; see AnyTensor::view.
    template <ElementScalar T, int Rank>
    [[nodiscard]] TensorView<const T, Rank> view(std::string_view name) const {
        return at(name).view<T, Rank>(name);
    }

    /// at(name) as a converted copy; see AnyTensor::to.
    template <StorageScalar T, int Rank>
    [[nodiscard]] Tensor<T, Rank> to(std::string_view name) const {
        return at(name).to<T, Rank>(name);
    }

    [[nodiscard]] std::size_t size() const { return tensors_.size(); }
    [[nodiscard]] auto begin() const { return tensors_.begin(); }
    [[nodiscard]] auto end() const { return tensors_.end(); }

    [[nodiscard]] const Metadata& metadata() const { return metadata_; }
    [[nodiscard]] Metadata& metadata() { return metadata_; }

    friend bool operator==(const NamedTensors&, const NamedTensors&) = default;

  private:
    /// The name with the fewest differing letters, if those are at most a third; else nothing.
    [[nodiscard]] std::string_view nearest(std::string_view name) const {
        std::string_view best;
        std::size_t fewest = name.size() / 3 + 1;
        for (const auto& [candidate, tensor] : tensors_) {
            const std::size_t shorter = std::min(candidate.size(), name.size());
            const std::size_t longer = std::max(candidate.size(), name.size());
            if (longer - shorter >= fewest) continue;  // also bounds the work on absurd names
            const std::size_t distance = detail::edit_distance(name, candidate);
            if (distance < fewest) {
                fewest = distance;
                best = candidate;
            }
        }
        return best;
    }

    Tensors tensors_;
    Metadata metadata_;
};

}  // namespace heed::inline v0
