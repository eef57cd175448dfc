// The scalar mathematics of the AMD loss, written once for one vector of positions.
#pragma once

#include "simd.h"

namespace amd_fused {
namespace AMD_ISA {

// Coefficients of atanh(sqrt x) / sqrt x on [0, 1/9]: Chebyshev fits, relative error 1e-10 and
// 1e-18 (tests/test_cpp_accuracy.py compares g with float64 over the whole range of z).
template <typename T>
struct AtanhFit;
template <>
struct AtanhFit<float> {
  static constexpr int kDegree = 5;
  static constexpr float c[] = {0.99999999990450300652f, 0.3333333951321698478f,
                                0.19999355623431165808f, 0.14310103704218619165f,
                                0.10699280253339271618f, 0.12196954042011512453f};
};
template <>
struct AtanhFit<double> {
  static constexpr int kDegree = 10;
  static constexpr double c[] = {1.0,
                                 0.33333333333333074797,
                                 0.20000000000092873734,
                                 0.14285714272727057267,
                                 0.11111112040373836587,
                                 0.090908704162524022551,
                                 0.076933070211520038808,
                                 0.066501870163373121685,
                                 0.060550843640346088273,
                                 0.041622532559304102879,
                                 0.085220817813906990645};
};

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
  IntVec<T> scaled = bit_cast<IntVec<T>>(sum) + (bit_cast<IntVec<T>>(shifted) << K::kFractionBits);
  Vec<T> result = bit_cast<Vec<T>>(scaled);
  return x == x ? result : x;
}

template <typename T>
struct LogSigmoid {
  Vec<T> value;  // log(sigmoid(z)), Eq. 6
  Vec<T> slope;  // sigmoid(-z), its derivative
};

// derived: with e = exp(-|z|), logsigmoid(z) = min(z, 0) - log1p(e), and
// log1p(e) = 2 atanh(e / (2 + e)): no cancellation for z far from 0 on either side.
template <typename T>
AMD_INLINE LogSigmoid<T> log_sigmoid(Vec<T> z) {
  using K = AtanhFit<T>;
  Vec<T> zero = {};
  Vec<T> e = exp_non_positive<T>(z > 0 ? -z : z);
  // One division for e / (2 + e) and for 1 / (1 + e).
  Vec<T> one = e + T(1), two = e + T(2);
  Vec<T> reciprocal = T(1) / (one * two);
  Vec<T> w = e * one * reciprocal;
  Vec<T> x = w * w;
  Vec<T> series = splat<T>(K::c[K::kDegree]);
  for (int i = K::kDegree - 1; i >= 0; --i) series = series * x + K::c[i];
  Vec<T> value = (z > 0 ? zero : z) - (w + w) * series;
  Vec<T> slope = (z > 0 ? e : splat<T>(1)) * two * reciprocal;
  return {value, slope};
}

template <typename T>
struct Cosine {
  Vec<T> value;  // t = cos(m arccos q)
  Vec<T> slope;  // dt/dq
};

// Eq. 6's margin by the host's polynomial in v = 2 n - 1, n = 1 - q; value and slope in one Horner
// run.
template <typename T>
AMD_INLINE Cosine<T> cos_margin_polynomial(Vec<T> n, const T* c, int degree) {
  Vec<T> v = n + n - T(1);
  Vec<T> value = splat<T>(c[degree]);
  Vec<T> slope = {};
  for (int k = degree - 1; k >= 0; --k) {
    slope = slope * v + value;
    value = value * v + c[k];
  }
  return {value, slope * T(-2)};  // dv/dq = -2
}

// Direct form, for margins whose polynomial would lose accuracy: theta = 2 asin(sqrt(n / 2)) keeps
// small angles exact, and m sin(m theta) / sin(theta) -> m^2 (1 - (m^2 - 1) theta^2 / 6) at theta =
// 0.
template <typename T>
__attribute__((noinline)) void cos_margin_direct(const T* n, double m, T* value, T* slope) {
  for (int i = 0; i < kLanes<T>; ++i) {
    double half = n[i] / 2.0;
    double theta = 2 * __builtin_asin(__builtin_sqrt(half < 0 ? 0 : half));
    double small = m > 1 ? 1e-4 / m : 1e-4;
    value[i] = T(__builtin_cos(m * theta));
    slope[i] = T(theta < small ? m * m * (1 - (m * m - 1) * theta * theta / 6)
                               : m * __builtin_sin(m * theta) / __builtin_sin(theta));
  }
}

}  // namespace AMD_ISA
}  // namespace amd_fused
