#include "resample.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace vit {

namespace {

using heed::Tensor;
using heed::TensorView;

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

/// Bytes are weighed with whole numbers of 22 fractional bits, as Pillow does; their sums fit into
/// 32 bits because the magnitudes of a bicubic filter's weights add up to less than 2.
template <class T>
inline constexpr bool is_byte = std::is_same_v<T, std::uint8_t>;
template <class T>
using Weight = std::conditional_t<is_byte<T>, std::int32_t, T>;
constexpr int fraction_bits = 22;

template <class T>
Weight<T> weight_of(double exact) {
    if constexpr (is_byte<T>) exact = exact * (1 << fraction_bits) + std::copysign(0.5, exact);
    return static_cast<Weight<T>>(exact);
}

template <class T>
T rounded(Weight<T> sum) {
    if constexpr (is_byte<T>)
        return static_cast<T>(
            std::clamp((sum + (1 << (fraction_bits - 1))) >> fraction_bits, 0, 255));
    else
        return sum;
}

/// What one position after resizing is made of: positions from `first` on, by these weights.
template <class T>
struct Taps {
    Index first = 0;
    std::vector<Weight<T>> weights;

    [[nodiscard]] Index end() const { return first + std::ssize(weights); }
};

template <class T>
Taps<T> taps_at(Index position, Index size, Index size_before) {
    const double scale = static_cast<double>(size_before) / static_cast<double>(size);
    const double stretch = std::max(scale, 1.0), inverse = 1.0 / stretch, reach = 2.0 * stretch;
    const double centre = (static_cast<double>(position) + 0.5) * scale;
    const auto nearest = [](double place) { return static_cast<Index>(std::floor(place + 0.5)); };
    Taps<T> taps{.first = std::max(Index{0}, nearest(centre - reach)), .weights = {}};
    const Index end = std::min(size_before, nearest(centre + reach));
    std::vector<double> exact;
    double sum = 0.0;
    for (Index i = taps.first; i < end; ++i) {
        exact.push_back(bicubic((static_cast<double>(i) - centre + 0.5) * inverse));
        sum += exact.back();
    }
    for (const double weight : exact) taps.weights.push_back(weight_of<T>(weight / sum));
    return taps;
}

template <class T>
std::vector<Taps<T>> taps_of(const Part& part, Index size_before) {
    std::vector<Taps<T>> taps;
    for (Index i = 0; i < part.count; ++i)
        taps.push_back(taps_at<T>(part.begin + i, part.size, size_before));
    return taps;
}

/// Resizes dimension 1 of three.
template <class T>
void resize_columns(TensorView<const T, 3> source, std::span<const Taps<T>> taps,
                    TensorView<T, 3> target) {
    for (Index y = 0; y < target.extent(0); ++y)
        for (Index x = 0; x < target.extent(1); ++x) {
            const auto& [first, weights] = taps[static_cast<std::size_t>(x)];
            for (Index c = 0; c < target.extent(2); ++c) {
                Weight<T> sum = 0;
                for (std::size_t i = 0; i < weights.size(); ++i)
                    sum += weights[i] * source(y, first + static_cast<Index>(i), c);
                target(y, x, c) = rounded<T>(sum);
            }
        }
}

void require_part(const Part& part, Index size_before) {
    if (size_before < 1 || part.begin < 0 || part.count < 1 || part.begin > part.size - part.count)
        throw heed::ShapeError(
            "[resize] a part must lie inside, and nothing must be empty; found " +
            std::to_string(part.count) + " positions from " + std::to_string(part.begin) +
            " on of " + std::to_string(part.size) + ", made of " + std::to_string(size_before));
}

template <class T>
Tensor<T, 3> resize_part(TensorView<const T, 3> source, const Part& rows, const Part& columns) {
    require_part(rows, source.extent(0));
    require_part(columns, source.extent(1));
    const auto across = taps_of<T>(columns, source.extent(1));
    auto down = taps_of<T>(rows, source.extent(0));
    // Rows that the part does not see are left out.
    const Index first = down.front().first, end = down.back().end();
    for (Taps<T>& taps : down) taps.first -= first;

    Tensor<T, 3> narrow({end - first, columns.count, source.extent(2)});
    resize_columns<T>(source.slice(0, first, end - first), across, narrow);
    Tensor<T, 3> result({rows.count, columns.count, source.extent(2)});
    resize_columns<T>(narrow.view().transpose(0, 1), down, result.view().transpose(0, 1));
    return result;
}

}  // namespace

Tensor<std::uint8_t, 3> resize(TensorView<const std::uint8_t, 3> picture, const Part& rows,
                               const Part& columns) {
    return resize_part(picture, rows, columns);
}

template <class T>
Tensor<T, 3> resize(TensorView<const T, 3> grid, Index height, Index width) {
    return resize_part(grid, {.size = height}, {.size = width});
}

template Tensor<float, 3> resize(TensorView<const float, 3>, Index, Index);
template Tensor<double, 3> resize(TensorView<const double, 3>, Index, Index);

}  // namespace vit
