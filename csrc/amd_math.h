// The mathematics of the AMD loss, written once for CPUs and GPUs.
//
// V holds positions: a vector of the compiler's on a CPU, one number on a GPU; `?:` chooses lane by
// lane in both. T is the type of V's elements, R a number of one region. Each instruction set
// compiles a copy in a namespace of its own, AMD_ISA (cpu/simd.h says why).
#pragma once

#include <math.h>

#include "amd_features.h"

namespace amd_fused {

// Norms below this count as this in every normalisation of Eq. 7, as in F.normalize.
constexpr double kNormFloor = 1e-12;

namespace AMD_ISA {

AMD_INLINE float square_root(float x) { return ::sqrtf(x); }
AMD_INLINE double square_root(double x) { return ::sqrt(x); }

// c[0] + c[1] x + ... by Horner's rule.
template <typename V, typename T>
AMD_INLINE V polynomial(V, T last) {
  return last - V{};
}
template <typename V, typename T, typename... Following>
AMD_INLINE V polynomial(V x, T first, Following... following) {
  return polynomial(x, following...) * x + first;
}

// atanh(sqrt x) / sqrt x on [0, 1/9]: Chebyshev fits, relative error 1e-10 and 1e-18. The second
// argument only names the compute type.
template <typename V>
AMD_INLINE V atanh_series(V x, float) {
  return polynomial(x, 0.99999999990450300652f, 0.3333333951321698478f, 0.19999355623431165808f,
                    0.14310103704218619165f, 0.10699280253339271618f, 0.12196954042011512453f);
}
template <typename V>
AMD_INLINE V atanh_series(V x, double) {
  return polynomial(x, 1.0, 0.33333333333333074797, 0.20000000000092873734, 0.14285714272727057267,
                    0.11111112040373836587, 0.090908704162524022551, 0.076933070211520038808,
                    0.066501870163373121685, 0.060550843640346088273, 0.041622532559304102879,
                    0.085220817813906990645);
}

// Section 4.2: ||f|| and 1 / (||f|| + eps).
template <typename R>
struct MapNorm {
  R norm, inverse;
};
template <typename R>
AMD_INLINE MapNorm<R> map_norm(R square_sum, R eps) {
  R norm = square_root(square_sum);
  // A norm past the largest number would make q = 0, a finite loss of nothing: NaN is heard.
  norm = norm == R(INFINITY) ? norm - norm : norm;
  const R denominator = norm + eps;
  // An all-zero map with eps = 0 has q = 0.
  return {norm, denominator == 0 ? R(0) : 1 / denominator};
}

// derived: n = 1 - q = ((||f|| - f) + eps) / (||f|| + eps) keeps its digits where q is near 1.
template <typename T, typename V>
AMD_INLINE V negative_map(V f, T norm, T inverse_norm, T eps) {
  return inverse_norm == 0 ? f - f + T(1) : ((norm - f) + eps) * inverse_norm;
}

template <typename V>
struct Cosine {
  V value;  // t = cos(m arccos q)
  V slope;  // dt/dq
};

// Eq. 6's margin by the host's polynomial in v = 2 n - 1, n = 1 - q; value and slope in one Horner
// run.
template <typename T, typename V>
AMD_INLINE Cosine<V> cos_margin_polynomial(V n, const T* c, int degree) {
  const V v = n + n - T(1);
  V value = c[degree] - V{}, slope = {};
  for (int k = degree - 1; k >= 0; --k) {
    slope = slope * v + value;
    value = value * v + c[k];
  }
  return {value, slope * T(-2)};  // dv/dq = -2
}

// Direct form, for margins whose polynomial would lose accuracy, from theta = 2 asin(sqrt(n / 2)),
// which keeps small angles exact. derived: sin(theta) = sqrt(n (2 - n)), and m sin(m theta) /
// sin(theta) -> m^2 (1 - (m^2 - 1) theta^2 / 6) at theta = 0.
template <typename R>
AMD_INLINE Cosine<R> cos_margin_direct(R n, R m, R theta, R cos_m_theta, R sin_m_theta) {
  const bool near = theta * (m > 1 ? m : R(1)) < R(1e-3);
  const R limit = m * m * (1 - (m * m - 1) * theta * theta / 6);
  return {cos_m_theta, near ? limit : m * sin_m_theta / square_root(n * (2 - n))};
}

template <typename V>
struct LogSigmoid {
  V value;  // log(sigmoid(z)), Eq. 6
  V slope;  // sigmoid(-z), its derivative
};

// derived: with e = exp(-|z|), logsigmoid(z) = min(z, 0) - log1p(e), and
// log1p(e) = 2 atanh(e / (2 + e)): no cancellation for z far from 0 on either side.
template <typename T, typename V>
AMD_INLINE LogSigmoid<V> log_sigmoid(V z, V e) {
  const V zero = {};
  // One division for e / (2 + e) and for 1 / (1 + e).
  const V one = e + T(1), two = e + T(2);
  const V reciprocal = T(1) / (one * two);
  const V w = e * one * reciprocal;
  const V value = (z > 0 ? zero : z) - (w + w) * atanh_series(w * w, T());
  const V slope = (z > 0 ? e : zero + T(1)) * two * reciprocal;
  return {value, slope};
}

template <typename R>
struct Unit {
  R inverse;  // 1 / max(||x||, floor)
  R length;   // |x^|^2: 1, or below 1 where the norm is under its floor
};
template <typename R>
AMD_INLINE Unit<R> unit(R square_sum) {
  const R norm = square_root(square_sum);  // NaN stays NaN below
  const bool clamped = norm < R(kNormFloor);
  // The ratio first: the square of a number under the floor has no digits in float32.
  const R ratio = norm / R(kNormFloor);
  return {1 / (clamped ? R(kNormFloor) : norm), clamped ? ratio * ratio : R(1)};
}

// D_x as summed, but exact for one position alone: there both unit vectors are a sign, and D is 0
// or 4.
template <typename R>
AMD_INLINE R settled(R distance, int64_t positions, R length_s, R length_t) {
  const bool signs = positions == 1 && length_s == 1 && length_t == 1 && distance == distance;
  return signs ? (distance > 2 ? R(4) : R(0)) : distance;
}

// Eqs. 7 and 9: what D_x of a region counts in the loss. share: (1 - w) for the whole map, w / 4
// for a quadrant; component: a, b or c.
template <typename R>
AMD_INLINE R region_weight(R layer_weight, R share, R component, bool position_mean,
                           int64_t positions) {
  return layer_weight * share * component / 3 / (position_mean ? R(positions) : R(1));
}

// Gradient of weight * D_x by x of one side: 2 weight / ||x|| (d - (d . x^) x^), d = x^ - x^_other.
// derived: d . x^ = (D + |x^|^2 - |x^_other|^2) / 2, which is D/2 where both are unit vectors.
// Where the own norm is below its floor, x^ = x / 1e-12 and the projection is absent. One position
// alone has x^ = +-1: no gradient, unless it is below the floor. There, a map of one position has
// one that cancels in map_gradient but for its 1e-12th part, which float32 cannot tell from
// rounding, so it is left out; a quadrant of one position in a larger map has one that counts.
template <typename T>
struct Pull {
  T own, other, factor, projection;

  template <typename V>
  AMD_INLINE V on(V x_own, V x_other) const {
    const V normalised = x_own * own;
    return ((normalised - x_other * other) - normalised * projection) * factor;
  }
};
template <typename T, typename R>
AMD_INLINE Pull<T> make_pull(bool whole_map, R weight, int64_t positions, T own_inverse,
                             T other_inverse, R distance, R own_length, R other_length) {
  const bool cancels = whole_map && sizeof(T) == 4;
  const bool constant = positions == 1 && (own_length == 1 || cancels);
  return {own_inverse, other_inverse, constant ? T(0) : T(2 * weight * own_inverse),
          own_length == 1 ? T((distance + (1 - other_length)) / 2) : T(0)};
}

// derived: dL/df_i = u_i / (||f|| + eps) - (sum_j u_j f_j) / (||f|| + eps)^2 f_i / ||f||, with
// u = dL/dq; this is the factor of f_i.
template <typename R>
AMD_INLINE R radial_factor(R sum_uf, R norm, R inverse_norm) {
  return norm == 0 ? R(0) : sum_uf * inverse_norm * inverse_norm / norm;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
