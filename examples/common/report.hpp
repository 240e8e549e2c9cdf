#pragma once
// How does a report of an example look?
// Writes to std::cout.

#include <iomanip>
#include <iostream>
#include <string_view>

namespace examples {

/// One line of the report: what it is, and the rest from a fixed column on.
inline std::ostream& item(std::string_view what) {
    return std::cout << std::left << std::setw(12) << what << std::right;
}

}  // namespace examples
