#pragma once
// Which instruction sets can a test run on?
// Lists those of this processor, and forces one for a scope.

#include <vector>

#include "heed/base/isa.hpp"

namespace support {

inline std::vector<heed::Isa> isas() {
    std::vector<heed::Isa> supported;
    for (heed::Isa isa : {heed::Isa::baseline, heed::Isa::avx2, heed::Isa::avx512})
        if (heed::isa_is_supported(isa)) supported.push_back(isa);
    return supported;
}

/// Forces an instruction set for a scope.
class WithIsa {
  public:
    explicit WithIsa(heed::Isa isa) : before_(heed::current_isa()) { heed::use_isa(isa); }
    ~WithIsa() { heed::use_isa(before_); }
    WithIsa(const WithIsa&) = delete;
    WithIsa& operator=(const WithIsa&) = delete;

  private:
    heed::Isa before_;
};

}  // namespace support
