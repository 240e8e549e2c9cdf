#pragma once
// What do problems count with?

#include <cstddef>
#include <vector>

namespace bench {

using Size = std::ptrdiff_t;
using Sizes = std::vector<Size>;

}  // namespace bench
