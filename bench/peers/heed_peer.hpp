#pragma once
// What do the C functions of heed's shared object have in common?
// Errors as return codes and messages, arrays of the caller's as named weights, and the number of
// threads that modules take; knows no contest.

#include <cstdint>
#include <exception>
#include <span>
#include <string>

#include "heed/heed.hpp"

/// Weights of a module; contiguous.
struct HeedPeerTensor {
    const char* name;
    const float* values;
    std::int64_t rank;
    std::int64_t shape[3];
};

/// Shown each parameter of a module, or its gradient.
using HeedPeerVisitor = void (*)(const HeedPeerTensor* tensor);

namespace heed_peer {

inline thread_local std::string last_error;

/// 0 when the work is done, 1 when it threw; the message is then in last_error.
template <class Work>
int status_of(const Work& work) noexcept {
    try {
        work();
        return 0;
    } catch (const std::exception& error) {
        last_error = error.what();
    } catch (...) {
        last_error = "unknown error";
    }
    return 1;
}

/// What make() returns, a pointer to something new, or null when it threw.
template <class Make>
auto made_by(const Make& make) noexcept -> decltype(make()) {
    decltype(make()) made = nullptr;
    status_of([&] { made = make(); });
    return made;
}

/// Modules run on the process's executor, which contenders with other numbers of threads share.
inline void use_threads(int threads) {
    if (heed::num_threads() != threads) heed::set_num_threads(threads);
}

/// Of vectors and matrices.
inline heed::NamedTensors named_tensors(const HeedPeerTensor* tensors, std::int64_t count) {
    heed::NamedTensors named;
    for (const HeedPeerTensor& t : std::span(tensors, static_cast<std::size_t>(count))) {
        if (t.rank == 1)
            named.add(t.name, heed::TensorView<const float, 1>(t.values, {t.shape[0]}));
        else
            named.add(t.name, heed::TensorView<const float, 2>(t.values, {t.shape[0], t.shape[1]}));
    }
    return named;
}

template <class Module>
void show_parameters(const Module& module, HeedPeerVisitor visit) {
    // The visitor copies what it is shown.
    module.for_each_parameter(heed::detail::AtOnce{[visit](const std::string& name, auto view) {
        static_assert(view.rank() <= static_cast<int>(std::size(HeedPeerTensor{}.shape)));
        HeedPeerTensor tensor{name.c_str(), view.data(), view.rank(), {}};
        for (int axis = 0; axis < view.rank(); ++axis) tensor.shape[axis] = view.extent(axis);
        visit(&tensor);
    }});
}

}  // namespace heed_peer
