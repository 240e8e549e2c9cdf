#pragma once
// How does heed run on the OpenMP threads of a program?
// An executor for programs compiled with -fopenmp; starts no thread that OpenMP has not.

#ifndef _OPENMP
#error "heed/base/openmp.hpp needs -fopenmp"
#endif

#include <omp.h>

#include <exception>

#include "heed/base/executor.hpp"

namespace heed::inline v0 {

/// Loops become `omp parallel for`. Inside a parallel region of the program the loop runs on the
/// calling thread, unless the program allows nested regions.
struct OpenMpExecutor {
    [[nodiscard]] int concurrency() const { return omp_get_max_threads(); }

    void parallel_for(Index count, ParallelTask task) const {
        std::exception_ptr error;
#pragma omp parallel for schedule(dynamic)
        for (Index i = 0; i < count; ++i) {
            // An exception must not leave the region: the program would end.
            try {
                task(i, omp_get_thread_num());
            } catch (...) {
#pragma omp critical(heed_openmp_error)
                if (!error) error = std::current_exception();
            }
        }
        if (error) std::rethrow_exception(error);
    }
};

}  // namespace heed::inline v0
