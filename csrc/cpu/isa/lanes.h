// Across the lanes of a vector, and powers of two.
#pragma once

#include "vector_exp.h"

namespace amd_fused {
namespace AMD_ISA {

typedef float Float4 __attribute__((vector_size(16)));
typedef double Double4 __attribute__((vector_size(32)));
typedef double Double2 __attribute__((vector_size(16)));

template <typename Half, typename Whole>
struct Halves {
  Half low, high;
  explicit AMD_INLINE Halves(Whole v) { __builtin_memcpy((void*)this, &v, sizeof(v)); }
};

// Sums in double precision by halves: horizontal_sum's chain of additions is as long as a short
// row's arithmetic.
AMD_INLINE double sum_lanes(Vec<double> v) {
  const Halves<Double4, Vec<double>> eight(v);
  const Halves<Double2, Double4> four(eight.low + eight.high);
  const Double2 two = four.low + four.high;
  return two[0] + two[1];
}
AMD_INLINE double sum_lanes(Vec<float> v) {
  const Halves<Float8, Vec<float>> half(v);
  return sum_lanes(__builtin_convertvector(half.low, Vec<double>) +
                   __builtin_convertvector(half.high, Vec<double>));
}

// a[2i] + a[2i + 1 of the other half] ...: lane 2i holds a's half sums, lane 2i + 1 those of b.
template <typename T>
AMD_INLINE Vec<T> pair_sums(Vec<T> a, Vec<T> b) {
  constexpr int kL = kLanes<T>;
  IntVec<T> low, high;
  for (int i = 0; i < kL / 2; ++i) {
    low[2 * i] = i;
    low[2 * i + 1] = i + kL;
    high[2 * i] = i + kL / 2;
    high[2 * i + 1] = i + kL + kL / 2;
  }
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// Lane i of the result is the sum of the lanes of rows[i]. Overwrites rows.
template <typename T>
AMD_INLINE Vec<T> transposed_sums(Vec<T>* rows) {
  for (int half = kLanes<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) rows[i] = pair_sums<T>(rows[i], rows[i + half]);
  return rows[0];
}

template <typename V>
AMD_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

AMD_INLINE double max_lane(Vec<double> v) {
  const Halves<Double4, Vec<double>> eight(v);
  const Halves<Double2, Double4> four(larger(eight.low, eight.high));
  const Double2 two = larger(four.low, four.high);
  return larger(two[0], two[1]);
}
AMD_INLINE float max_lane(Vec<float> v) {
  const Halves<Float8, Vec<float>> sixteen(v);
  const Halves<Float4, Float8> eight(larger(sixteen.low, sixteen.high));
  const Float4 four = larger(eight.low, eight.high);
  return larger(larger(four[0], four[1]), larger(four[2], four[3]));
}

// ln(2)^k times the coefficients of exp: those of 2^r on |r| <= 1/2.
template <typename T>
AMD_INLINE constexpr T exp2_coefficient(int k) {
  double c = ExpConstants<T>::c[k];
  for (int i = 0; i < k; ++i) c *= 0.69314718055994530942;
  return T(c);
}

// 2^w for w <= 0: exactly 0 where that is no normal number; any number for NaN.
template <typename T>
AMD_INLINE Vec<T> exp2_non_positive(Vec<T> w) {
  using K = ExpConstants<T>;
  constexpr T kLowest = sizeof(T) == 8 ? T(-1021) : T(-125);
  const Vec<T> shifted = w + K::kRounder;
  const Vec<T> r = w - (shifted - K::kRounder);
  Vec<T> sum = splat<T>(exp2_coefficient<T>(K::kDegree));
  for (int k = K::kDegree - 1; k >= 0; --k) sum = sum * r + exp2_coefficient<T>(k);
  // 2^k by adding k to the exponent bits.
  const Vec<T> power = bit_cast<Vec<T>>(bit_cast<BitsVec<T>>(sum) +
                                        (bit_cast<BitsVec<T>>(shifted) << K::kFractionBits));
  return w < kLowest ? Vec<T>{} : power;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
