#pragma once
// How many threads do calls have that name no executor?
// Changes their number for a scope.

#include "heed/base/thread_pool.hpp"

namespace support {

/// Gives the process so many threads for a scope.
class WithThreads {
  public:
    explicit WithThreads(int threads) : before_(heed::num_threads()) {
        heed::set_num_threads(threads);
    }
    ~WithThreads() { heed::set_num_threads(before_); }
    WithThreads(const WithThreads&) = delete;
    WithThreads& operator=(const WithThreads&) = delete;

  private:
    int before_;
};

}  // namespace support
