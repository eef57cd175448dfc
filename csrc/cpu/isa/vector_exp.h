// exp of a vector of positions.
#pragma once

#include "simd.h"

namespace amd_fused {
namespace AMD_ISA {

// Coefficients of exp on |r| <= ln(2)/2: Chebyshev fits, relative error 2.0e-9 and 4.2e-20.
template <typename T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int kDegree = 6, kFractionBits = 23;
  static constexpr float c[] = {1.0f,
                                1.00000003773887126f,
                                0.500000004714605742f,
                                0.166664154140411784f,
                                0.0416663527711122113f,
                                0.00837513477462432517f,
                                0.00139411188958370008f};
  static constexpr float kLowest = -86.5f;      // 2^k stays a normal number
  static constexpr float kRounder = 0x1.8p23f;  // adding it leaves an integer in the low bits
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
};
template <>
struct ExpConstants<double> {
  static constexpr int kDegree = 12, kFractionBits = 52;
  static constexpr double c[] = {1.0,
                                 0.999999999999999998,
                                 0.5,
                                 0.166666666666667024,
                                 0.0416666666666666922,
                                 0.00833333333330950802,
                                 0.00138888888888718746,
                                 0.000198412699092579029,
                                 0.0000248015873501399314,
                                 2.75572249206521386e-6,
                                 2.75572518772250828e-7,
                                 2.51148820958803402e-8,
                                 2.09215889389714924e-9};
  static constexpr double kLowest = -708.0;
  static constexpr double kRounder = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
};

// exp(x) for x <= 0; NaN stays NaN. Below kLowest it stays at exp(kLowest), about 1e-38 or 1e-308:
// the difference is far below NORM_FLOOR, the smallest number that the loss tells from 0.
template <typename T>
AMD_INLINE Vec<T> exp_non_positive(Vec<T> x) {
  using K = ExpConstants<T>;
  x = x < K::kLowest ? splat<T>(K::kLowest) : x;
  Vec<T> shifted = x * T(1.44269504088896340736) + K::kRounder;
  Vec<T> k = shifted - K::kRounder;
  Vec<T> r = (x - k * K::kLn2High) - k * K::kLn2Low;
  Vec<T> sum = splat<T>(K::c[K::kDegree]);
  for (int i = K::kDegree - 1; i >= 0; --i) sum = sum * r + K::c[i];
  // 2^k by adding k to the exponent bits; NaN has k in its fraction bits only.
  BitsVec<T> scaled =
      bit_cast<BitsVec<T>>(sum) + (bit_cast<BitsVec<T>>(shifted) << K::kFractionBits);
  Vec<T> result = bit_cast<Vec<T>>(scaled);
  return x == x ? result : x;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
