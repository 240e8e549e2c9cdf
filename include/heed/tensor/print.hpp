#pragma once
// What does a tensor look like as text?
// Reads the elements and writes nested brackets to the stream that it is given, nowhere else.

#include <iomanip>
#include <ostream>

#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

namespace detail {

template <class T>
void print_element(std::ostream& out, const T& element) {
    if constexpr (StorageScalar<T>)
        out << static_cast<ComputeType<T>>(element);
    else
        out << +element;  // bytes and booleans as numbers
}

template <class T, int Rank>
void print_nested(std::ostream& out, TensorView<T, Rank> view, int depth, std::streamsize width) {
    out << '[';
    for (Index i = 0; i < view.extent(0); ++i) {
        if constexpr (Rank == 1) {
            out << (i > 0 ? " " : "") << std::setw(static_cast<int>(width));
            print_element(out, view(i));
        } else {
            if (i > 0) out << '\n' << std::string(static_cast<std::size_t>(depth + 1), ' ');
            print_nested(out, view.select(0, i), depth + 1, width);
        }
    }
    out << ']';
}

}  // namespace detail

/// Prints nested rows, e.g. "[[1 2]\n [3 4]]". The stream's precision, float format and width are
/// used for each element: `std::cout << std::fixed << std::setprecision(4) << tensor`.
template <TensorLike X>
std::ostream& operator<<(std::ostream& out, const X& tensor) {
    const std::streamsize width = out.width(0);
    detail::print_nested(out, read(tensor), 0, width);
    return out;
}

}  // namespace heed::inline v0
