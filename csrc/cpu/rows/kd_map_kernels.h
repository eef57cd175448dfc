// KD and its spherical form over a block of positions; kd_rows.h and kd_map_rows.h name the
// quantities.
#pragma once

#include "kd_kernels.h"
#include "kd_map_rows.h"

namespace amd_fused {
namespace AMD_ISA {

// A vector's lanes in double precision.
template <typename T>
struct Wide;
template <>
struct Wide<double> {
  static constexpr int kParts = 1;
  Vec<double> part[kParts];
  AMD_INLINE void add(Vec<double> v) { part[0] += v; }
  AMD_INLINE Vec<double> narrow() const { return part[0]; }
};
template <>
struct Wide<float> {
  static constexpr int kParts = 2;
  Vec<double> part[kParts];
  AMD_INLINE void add(Vec<float> v) {
    const Halves<Float8, Vec<float>> half(v);
    part[0] += __builtin_convertvector(half.low, Vec<double>);
    part[1] += __builtin_convertvector(half.high, Vec<double>);
  }
  AMD_INLINE Vec<float> narrow() const {
    const Float8 half[2] = {__builtin_convertvector(part[0], Float8),
                            __builtin_convertvector(part[1], Float8)};
    return read<Vec<float>>(half);
  }
};

// Classes whose terms are added in T before the sum goes on in double precision.
constexpr int64_t kClassesAtOnce = 8;

template <typename T, bool kLast>
AMD_INLINE Vec<T> positions(const KdSide<const T>& z, int64_t k, int64_t at, int64_t count) {
  const T* p = z.data + k * z.stride + at;
  return kLast ? load_first<T>(p, count) : load<T>(p);
}

AMD_INLINE Vec<double> ratio(Vec<double> x, Vec<double> norm) {
  return norm == 0 ? Vec<double>{} : x / norm;
}

// A norm at or below 1e-12 counts as 0, Inf is NaN, which is heard: kd_forward.cpp.
AMD_INLINE Vec<double> norm_of(Vec<double> square, double divisor) {
  Vec<double> norm;
  for (int i = 0; i < kLanes<double>; ++i) norm[i] = __builtin_sqrt(square[i] / divisor);
  return norm <= 1e-12 ? Vec<double>{} : norm - (norm - norm);
}

// log(x) for normal x > 0, NaN for NaN; derived: log(2^e m) = e log 2 + 2 atanh((m - 1) / (m + 1))
// with m between 1/sqrt 2 and sqrt 2, where the series' next term is below 1e-16.
AMD_INLINE Vec<double> log_of(Vec<double> x) {
  const BitsVec<double> bits = bit_cast<BitsVec<double>>(x);
  constexpr uint64_t kOne = uint64_t(1023) << 52, kFraction = (uint64_t(1) << 52) - 1;
  Vec<double> m = bit_cast<Vec<double>>((bits & kFraction) | kOne);
  Vec<double> e = __builtin_convertvector(bit_cast<IntVec<double>>(bits >> 52), Vec<double>) - 1023.0;
  const IntVec<double> high = m > 1.4142135623730951;
  m = high ? m * 0.5 : m;
  e = high ? e + 1.0 : e;
  const Vec<double> w = (m - 1.0) / (m + 1.0), w2 = w * w;
  Vec<double> series = splat<double>(1.0 / 19);
  for (int k = 17; k >= 1; k -= 2) series = series * w2 + 1.0 / k;
  return e * kLn2 + 2.0 * w * series + (x - x);
}

template <typename T>
struct KdMapExtent {
  Vec<T> max, mean;
  Wide<T> square;
};

template <typename T, bool kLast>
AMD_INLINE KdMapExtent<T> extent(const KdSide<const T>& z, int64_t classes, int64_t at,
                                 int64_t count, LogitNorm norm) {
  const Vec<T> first = positions<T, kLast>(z, 0, at, count);
  KdMapExtent<T> of{splat<T>(T(-__builtin_inf())), {}, {}};
  Vec<T> sum{};  // of the distances from `first`, which are 0 in a position of one value
  for (int64_t k = 0; k < classes; ++k) {
    const Vec<T> value = positions<T, kLast>(z, k, at, count);
    of.max = larger(value, of.max);  // NaN is passed over here, and reaches the sums
    if (norm == kStd) sum += value - first;
  }
  if (norm == kNoNorm) return of;
  if (norm == kStd) of.mean = first + sum / splat<T>(T(classes));
  for (int64_t begin = 0; begin < classes; begin += kClassesAtOnce) {
    const int64_t end = begin + kClassesAtOnce < classes ? begin + kClassesAtOnce : classes;
    Vec<T> square{};
    for (int64_t k = begin; k < end; ++k) {
      const Vec<T> apart = positions<T, kLast>(z, k, at, count) - of.mean;
      square += apart * apart;
    }
    of.square.add(square);
  }
  return of;
}

template <typename T>
struct KdMapSums {
  Wide<T> exp_u, exp_v, gap, exp_u_x, exp_v_x, exp_v_y, exp_v_y_gap;
};

template <typename T, bool kSpherical, bool kLast>
AMD_INLINE void divergences_at(const KdSide<const T>& z_s, const KdSide<const T>& z_t,
                               int64_t classes, int64_t at, int64_t count, const KdForm& form,
                               const bool* counted, T* planes, int64_t stride, double* kl) {
  const LogitNorm norm = kSpherical ? form.norm : kNoNorm;
  const KdMapExtent<T> s = extent<T, kLast>(z_s, classes, at, count, norm);
  const KdMapExtent<T> t = extent<T, kLast>(z_t, classes, at, count, norm);
  const double divisor = norm == kStd ? double(classes - 1) : 1.0;
  Wide<T> n_s{}, n_t{}, a_s{}, a_t{}, scale_s{}, scale_t{};
  for (int i = 0; i < Wide<T>::kParts; ++i) {
    a_s.part[i] = a_t.part[i] = splat<double>(form.softening);
    if (kSpherical) {
      n_s.part[i] = norm_of(s.square.part[i], divisor);
      n_t.part[i] = norm_of(t.square.part[i], divisor);
      const Vec<double> radius = splat<double>(form.radius);
      a_s.part[i] *= ratio(form.fixed_radius ? radius : n_t.part[i], n_s.part[i]);
      if (form.fixed_radius) a_t.part[i] *= ratio(radius, n_t.part[i]);
    }
    scale_s.part[i] = a_s.part[i] / kLn2;
    scale_t.part[i] = a_t.part[i] / kLn2;
  }
  SumPass<T, kSpherical> pass{};
  pass.max_s = s.max;
  pass.max_t = t.max;
  pass.scale_s = scale_s.narrow();
  pass.scale_t = scale_t.narrow();
  KdMapSums<T> sums{};
  for (int64_t begin = 0; begin < classes; begin += kClassesAtOnce) {
    const int64_t end = begin + kClassesAtOnce < classes ? begin + kClassesAtOnce : classes;
    for (int64_t k = begin; k < end; ++k)
      pass.template step<false>(at, positions<T, kLast>(z_s, k, at, count),
                                positions<T, kLast>(z_t, k, at, count), IntVec<T>{});
    sums.exp_u.add(pass.exp_u);
    sums.exp_v.add(pass.exp_v);
    sums.gap.add(pass.gap);
    pass.exp_u = pass.exp_v = pass.gap = Vec<T>{};
    if (kSpherical) {
      sums.exp_u_x.add(pass.exp_u_x);
      sums.exp_v_x.add(pass.exp_v_x);
      sums.exp_v_y.add(pass.exp_v_y);
      sums.exp_v_y_gap.add(pass.exp_v_y_gap);
      pass.exp_u_x = pass.exp_v_x = pass.exp_v_y = pass.exp_v_y_gap = Vec<T>{};
    }
  }

  constexpr int kPlanes = kSpherical ? int(kSphericalPlanes) : int(kKdPlanes);
  Wide<T> out[kPlanes] = {}, divergence{};
  for (int i = 0; i < Wide<T>::kParts; ++i) {
    const Vec<double> exp_u = sums.exp_u.part[i], exp_v = sums.exp_v.part[i];
    const Vec<double> gap = sums.gap.part[i] / exp_v;
    // The kernels' powers may be anything for NaN; the gap is NaN wherever a logit is.
    const IntVec<double> is_nan = gap != gap;
    out[kInverseS].part[i] = is_nan ? gap : 1.0 / exp_u;
    out[kInverseT].part[i] = is_nan ? gap : 1.0 / exp_v;
    out[kGap].part[i] = gap;
    // derived: sum p (v - u) - (log sum e^v - log sum e^u).
    divergence.part[i] = kLn2 * gap - log_of(exp_v / exp_u);
    if (kSpherical) {
      const Vec<double> norm_s = n_s.part[i], norm_t = n_t.part[i], by_s = a_s.part[i];
      out[kScaleS].part[i] = scale_s.part[i];
      out[kScaleT].part[i] = scale_t.part[i];
      // derived: as in kd_forward.cpp.
      const Vec<double> by_a_s = sums.exp_u_x.part[i] / exp_u - sums.exp_v_x.part[i] / exp_v;
      const Vec<double> by_a_t =
          kLn2 * (sums.exp_v_y_gap.part[i] - gap * sums.exp_v_y.part[i]) / exp_v;
      const Vec<double> by_norm = form.fixed_radius ? -by_a_t * a_t.part[i] : by_a_s * by_s;
      out[kCoefficientS].part[i] = -by_a_s * ratio(by_s, norm_s * norm_s) / divisor;
      out[kCoefficientT].part[i] = ratio(by_norm, norm_t * norm_t) / divisor;
    }
  }
  Vec<T> numbers[kPlanes];
  for (int i = 0; i < kPlanes; ++i) numbers[i] = out[i].narrow();
  numbers[kMaxS] = s.max;
  numbers[kMaxT] = t.max;
  if (kSpherical) {
    numbers[kMeanS] = s.mean;
    numbers[kMeanT] = t.mean;
  }
  const int64_t lanes = kLast ? count : int64_t(kLanes<T>);
  alignas(64) double of_lane[kLanes<T>];
  __builtin_memcpy(of_lane, divergence.part, sizeof(of_lane));
  if (counted) {
    IntVec<T> on{};
    for (int64_t i = 0; i < lanes; ++i) {
      on[i] = counted[at + i] ? -1 : 0;
      if (!counted[at + i]) of_lane[i] = 0;
    }
    for (int i = 0; i < kPlanes; ++i) numbers[i] = on ? numbers[i] : Vec<T>{};
  }
  for (int64_t i = 0; i < lanes; ++i) kl[at + i] = of_lane[i];
  for (int i = 0; i < kPlanes; ++i) {
    if (kLast)
      store_first<T>(planes + i * stride + at, numbers[i], count);
    else
      store<T>(planes + i * stride + at, numbers[i]);
  }
}

template <typename T, bool kSpherical>
void divergences_of(const KdSide<const T>& z_s, const KdSide<const T>& z_t, int64_t classes,
                    int64_t count, const KdForm& form, const bool* counted, T* planes,
                    int64_t stride, double* kl) {
  int64_t at = 0;
  for (; at + kLanes<T> <= count; at += kLanes<T>)
    divergences_at<T, kSpherical, false>(z_s, z_t, classes, at, count, form, counted, planes,
                                         stride, kl);
  if (at < count)
    divergences_at<T, kSpherical, true>(z_s, z_t, classes, at, count - at, form, counted, planes,
                                        stride, kl);
}

template <typename T>
void divergences(KdSide<const T> z_s, KdSide<const T> z_t, int64_t classes, int64_t count,
                 const KdForm& form, const bool* counted, T* planes, int64_t stride, double* kl) {
  if (form.norm == kNoNorm)
    divergences_of<T, false>(z_s, z_t, classes, count, form, counted, planes, stride, kl);
  else
    divergences_of<T, true>(z_s, z_t, classes, count, form, counted, planes, stride, kl);
}

template <typename T, bool kLast>
AMD_INLINE void put(const KdSide<T>& to, int64_t k, int64_t at, int64_t count, Vec<T> value) {
  T* p = to.data + k * to.stride + at;
  if (kLast)
    store_first<T>(p, value, count);
  else
    store<T>(p, value);
}

template <typename T, bool kSpherical, bool kLast>
AMD_INLINE void gradients_at(const KdSide<const T>& z_s, const KdSide<const T>& z_t,
                             int64_t classes, int64_t at, int64_t count, const KdForm& form,
                             const T* planes, int64_t stride, T weight, const KdSide<T>& d_z_s,
                             const KdSide<T>& d_z_t) {
  constexpr int kPlanes = kSpherical ? int(kSphericalPlanes) : int(kKdPlanes);
  Vec<T> of[kPlanes];
  const KdSide<const T> numbers{planes, stride};
  for (int i = 0; i < kPlanes; ++i) of[i] = positions<T, kLast>(numbers, i, at, count);
  // Planes that KD itself does not have are not read.
  constexpr auto plane = [](KdPlane spherical) { return kSpherical ? spherical : kMaxS; };
  const Vec<T> softening = splat<T>(T(form.softening / kLn2));
  const Vec<T> scale_s = kSpherical ? of[plane(kScaleS)] : softening;
  const Vec<T> scale_t = kSpherical ? of[plane(kScaleT)] : softening;
  const Vec<T> mean_s = of[plane(kMeanS)], coefficient_s = weight * of[plane(kCoefficientS)];
  const Vec<T> mean_t = of[plane(kMeanT)], coefficient_t = weight * of[plane(kCoefficientT)];
  const Vec<T> weight_s = scale_s * T(weight * kLn2), weight_t = scale_t * T(weight * kLn2 * kLn2);
  const IntVec<T> on = of[kInverseT] != 0;
  for (int64_t k = 0; k < classes; ++k) {
    const Vec<T> s = positions<T, kLast>(z_s, k, at, count);
    const Vec<T> t = positions<T, kLast>(z_t, k, at, count);
    const Vec<T> u = scale_s * (s - of[kMaxS]), v = scale_t * (t - of[kMaxT]);
    const Vec<T> p = exp2_non_positive<T>(v) * of[kInverseT];
    if (d_z_s.data) {
      const Vec<T> q = exp2_non_positive<T>(u) * of[kInverseS];
      // derived: dKL/dz_s = a_s (q - p), and through the norm.
      Vec<T> d = weight_s * (q - p);
      if (kSpherical) d += coefficient_s * (s - mean_s);
      put<T, kLast>(d_z_s, k, at, count, on ? d : Vec<T>{});
    }
    if (d_z_t.data) {
      // derived: dKL/dz_t = a_t p ((v - u) - E_p[v - u]), and through the norm. p - p: 0 or NaN.
      Vec<T> d = masked<T>(u, v) ? p - p : weight_t * p * ((v - u) - of[kGap]);
      if (kSpherical) d += coefficient_t * (t - mean_t);
      put<T, kLast>(d_z_t, k, at, count, on ? d : Vec<T>{});
    }
  }
}

template <typename T, bool kSpherical>
void map_gradients_of(const KdSide<const T>& z_s, const KdSide<const T>& z_t, int64_t classes,
                      int64_t count, const KdForm& form, const T* planes, int64_t stride, T weight,
                      const KdSide<T>& d_z_s, const KdSide<T>& d_z_t) {
  int64_t at = 0;
  for (; at + kLanes<T> <= count; at += kLanes<T>)
    gradients_at<T, kSpherical, false>(z_s, z_t, classes, at, count, form, planes, stride, weight,
                                       d_z_s, d_z_t);
  if (at < count)
    gradients_at<T, kSpherical, true>(z_s, z_t, classes, at, count - at, form, planes, stride,
                                      weight, d_z_s, d_z_t);
}

template <typename T>
void map_gradients(KdSide<const T> z_s, KdSide<const T> z_t, int64_t classes, int64_t count,
                   const KdForm& form, const T* planes, int64_t stride, T weight, KdSide<T> d_z_s,
                   KdSide<T> d_z_t) {
  if (form.norm == kNoNorm)
    map_gradients_of<T, false>(z_s, z_t, classes, count, form, planes, stride, weight, d_z_s,
                               d_z_t);
  else
    map_gradients_of<T, true>(z_s, z_t, classes, count, form, planes, stride, weight, d_z_s, d_z_t);
}

template <typename T>
void fill_kd_map(KdMapKernels<T>* table) {
  table->divergences = divergences<T>;
  table->gradients = map_gradients<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
