#pragma once
// What are the keys and values of a tile, as the kernels want them?
// Read in place where that is possible, widened or cleaned into scratch otherwise.

#include "heed/attention/fused_scratch.hpp"
#include "heed/attention/score_tile.hpp"

namespace heed::inline v0::detail {

/// A tile of keys and values of one head, ready for the kernels.
template <class Plan, class C>
class KeyTile {
  public:
    using Key = typename decltype(Plan::k)::value_type;
    using Value = typename decltype(Plan::v)::value_type;

    KeyTile(const TileKernels<C>& kernels, TensorView<const Key, 2> k, TensorView<const Value, 2> v,
            KeyRange keys, const FusedScratch<C>& scratch)
        : kernels_(kernels),
          scratch_(scratch),
          all_values_(v),
          keys_(keys),
          k_(k.slice(0, keys.begin, size()), scratch.keys),
          v_(v.slice(0, keys.begin, size()), scratch.values) {}

    [[nodiscard]] KeyRange keys() const { return keys_; }
    [[nodiscard]] TileRows<C> keys_from(Index key) const { return k_.from(key - keys_.begin); }
    [[nodiscard]] TileRows<C> values_from(Index key) const { return v_.from(key - keys_.begin); }

    /// A value as the caller has it.
    [[nodiscard]] C value(Index key, Index feature) const {
        return static_cast<C>(all_values_(key, feature));
    }

    /// Whether some value is NaN or infinite. Once asked, the values for the kernels have zeros in
    /// their place, in a copy: whoever sees such a value must add it.
    [[nodiscard]] bool take_poison_out() {
        if (poison_ == Poison::unknown) {
            const Index features = all_values_.extent(1);
            const bool found =
                detail::take_poison_out(kernels_, v_, size(), features, scratch_.values, features);
            poison_ = found ? Poison::out : Poison::none;
        }
        return poison_is_out();
    }
    [[nodiscard]] bool poison_is_out() const { return poison_ == Poison::out; }

  private:
    [[nodiscard]] Index size() const { return keys_.end - keys_.begin; }

    const TileKernels<C>& kernels_;
    const FusedScratch<C>& scratch_;
    TensorView<const Value, 2> all_values_;
    KeyRange keys_;
    TileRows<C> k_;
    TileRows<C> v_;
    enum class Poison { unknown, none, out } poison_ = Poison::unknown;
};

}  // namespace heed::inline v0::detail
