// Squares as whole numbers that order like them: the bits of a number that is not negative, NaN above all.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/base/host_device.h"

namespace cohort::kernels {

template <class A>
using SquareKey = std::conditional_t<std::is_same_v<A, double>, std::uint64_t, std::uint32_t>;

template <class A>
COHORT_HOST_DEVICE inline SquareKey<A> key_of_square(A square) {
  constexpr SquareKey<A> kSign = SquareKey<A>{1} << (8 * sizeof(A) - 1);
  return __builtin_bit_cast(SquareKey<A>, square) & ~kSign;
}

// What remains of a group when its largest squares are left out.
template <class A>
struct TrimBorder {
  bool all = true;       // nothing is left out
  SquareKey<A> key = 0;  // the border: larger squares go, smaller ones stay
  A of_border = 1;       // how much of itself each square on the border keeps

  COHORT_HOST_DEVICE A keeps(SquareKey<A> of) const {
    return all || of < key ? A{1} : of > key ? A{0} : of_border;
  }
};

}  // namespace cohort::kernels
