#pragma once
// What does a module keep between calls, beside its weights?
// Memory that is reused, and the position in its stream of dropout masks.

#include <cstdint>

#include "heed/ops/dropout.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

namespace detail {

/// Memory that grows to the largest size ever asked for, so that repeated calls allocate nothing.
/// Copies start empty: scratch is not part of a module's value.
template <class T>
class ReusableBuffer {
  public:
    ReusableBuffer() = default;
    ReusableBuffer(const ReusableBuffer&) {}
    ReusableBuffer(ReusableBuffer&&) noexcept = default;
    ReusableBuffer& operator=(const ReusableBuffer&) { return *this; }
    ReusableBuffer& operator=(ReusableBuffer&&) noexcept = default;
    ~ReusableBuffer() = default;

    /// A view with unspecified contents, valid until the next call.
    template <int Rank>
    [[nodiscard]] TensorView<T, Rank> view(const Shape<Rank>& shape) {
        const auto count = static_cast<std::size_t>(shape.element_count());
        if (memory_.size() < count) memory_ = AlignedArray<T>(count);
        return {memory_.data(), shape};
    }

    /// Copies the elements to the beginning of the memory, where view() finds them again.
    template <int Rank>
    void keep(InputView<T, Rank> source) {
        copy(source, view(source.shape()));
    }

    [[nodiscard]] std::span<T> span(std::size_t count) {
        if (memory_.size() < count) memory_ = AlignedArray<T>(count);
        return {memory_.data(), count};
    }

  private:
    AlignedArray<T> memory_;
};

/// The dropout of a module: nothing in evaluation, a fresh mask for each call in training.
class DropoutStream {
  public:
    DropoutStream() = default;
    DropoutStream(double probability, std::uint64_t seed) : next_{probability, seed, 0} {
        const DropoutRule checked("Dropout", next_);
        (void)checked;
    }

    void train(bool on) { training_ = on; }
    [[nodiscard]] bool training() const { return training_; }
    [[nodiscard]] bool active() const { return training_ && next_.probability > 0.0; }

    /// The dropout of the current call.
    [[nodiscard]] Dropout current() const { return active() ? next_ : Dropout{}; }

    /// The dropout of the last call, which backward has to repeat.
    [[nodiscard]] const Dropout& last() const { return last_; }

    /// Goes on to the next call; to be called when this one has succeeded, so that a refused call
    /// changes nothing.
    void advance() {
        last_ = current();
        if (active()) ++next_.call;
    }

    /// Applies the current mask to x in place and goes on to the next.
    template <class T, int Rank>
    void apply(TensorView<T, Rank> x) {
        if (active()) dropout<T, Rank>(x, x, current());
        advance();
    }

    /// The gradient of what `apply` was given: dy where nothing was dropped, else in the buffer,
    /// which dy itself may lie in.
    template <class T, int Rank>
    [[nodiscard]] TensorView<const T, Rank> backward(TensorView<const T, Rank> dy,
                                                     ReusableBuffer<T>& buffer) const {
        if (last_.probability == 0.0) return dy;
        const TensorView<T, Rank> dx = buffer.view(dy.shape());
        dropout<T, Rank>(dy, dx, last_);
        return dx;
    }

  private:
    Dropout next_{}, last_{};
    bool training_ = false;
};

}  // namespace detail
}  // namespace heed::inline v0
