// Passes of KD and its spherical form over one tile of a row; kd_rows.h names the quantities.
#pragma once

#include "kd_rows.h"
#include "lanes.h"

namespace amd_fused {
namespace AMD_ISA {

// The vectors that cover [0, count), one after another. The last one may overlap the one before it:
// `fresh` has the lanes that belong to it alone, and `at` is where it lies.
template <typename T, typename Pass>
AMD_INLINE void over_tile(const T* z_s, const T* z_t, int64_t count, Pass& pass) {
  constexpr int64_t kStep = kLanes<T>;
  int64_t i = 0;
  for (; i + kStep <= count; i += kStep)
    pass.template step<false>(i, load<T>(z_s + i), load<T>(z_t + i), IntVec<T>{});
  if (i == count) return;
  if (i == 0) {
    pass.template step<true>(0, load_first<T>(z_s, count), load_first<T>(z_t, count),
                             first_lanes<T>(count));
  } else {
    const int64_t at = count - kStep;
    pass.template step<true>(at, load<T>(z_s + at), load<T>(z_t + at), ~first_lanes<T>(i - at));
  }
}

template <bool kLast, typename T>
AMD_INLINE Vec<T> only(IntVec<T> fresh, Vec<T> v) {
  return kLast ? (fresh ? v : Vec<T>{}) : v;
}

template <typename T, bool kMean>
struct MaxPass {
  Vec<T> max_s, max_t, first_s, first_t;
  Vec<T> sum_s, sum_t;  // of the distances from `first`, which are 0 in a row of one value

  template <bool kLast>
  AMD_INLINE void step(int64_t, Vec<T> z_s, Vec<T> z_t, IntVec<T> fresh) {
    if (kMean) {
      sum_s += only<kLast, T>(fresh, z_s - first_s);
      sum_t += only<kLast, T>(fresh, z_t - first_t);
    }
    // Lanes without data repeat a number of the tile. NaN is passed over here, and reaches the
    // sums.
    max_s = larger(kLast ? (fresh ? z_s : first_s) : z_s, max_s);
    max_t = larger(kLast ? (fresh ? z_t : first_t) : z_t, max_t);
  }
};

template <typename T>
struct SquarePass {
  Vec<T> mean_s, mean_t, square_s, square_t;

  template <bool kLast>
  AMD_INLINE void step(int64_t, Vec<T> z_s, Vec<T> z_t, IntVec<T> fresh) {
    Vec<T> from_s = only<kLast, T>(fresh, z_s - mean_s),
           from_t = only<kLast, T>(fresh, z_t - mean_t);
    square_s += from_s * from_s;
    square_t += from_t * from_t;
  }
};

template <typename T, bool kMean>
AMD_INLINE void maxima(const T* z_s, const T* z_t, int64_t count, KdExtent of[2]) {
  MaxPass<T, kMean> pass{};
  pass.max_s = pass.max_t = splat<T>(T(-__builtin_inf()));
  pass.first_s = splat<T>(z_s[0]);
  pass.first_t = splat<T>(z_t[0]);
  over_tile<T>(z_s, z_t, count, pass);
  of[0] = {max_lane(pass.max_s), 0, 0};
  of[1] = {max_lane(pass.max_t), 0, 0};
  if (!kMean) return;
  of[0].mean = T(z_s[0] + T(sum_lanes(pass.sum_s) / double(count)));
  of[1].mean = T(z_t[0] + T(sum_lanes(pass.sum_t) / double(count)));
}

template <typename T>
void extents(const T* z_s, const T* z_t, int64_t count, LogitNorm norm, KdExtent of[2]) {
  if (norm == kStd)
    maxima<T, true>(z_s, z_t, count, of);
  else
    maxima<T, false>(z_s, z_t, count, of);
  if (norm == kNoNorm) return;
  SquarePass<T> squares{};
  squares.mean_s = splat<T>(T(of[0].mean));
  squares.mean_t = splat<T>(T(of[1].mean));
  over_tile<T>(z_s, z_t, count, squares);
  of[0].square = sum_lanes(squares.square_s);
  of[1].square = sum_lanes(squares.square_t);
}

// A class whose teacher logit is -Inf has the probability 0 and counts for nothing (p log p -> 0),
// whatever the student says of it, NaN apart.
template <typename T>
AMD_INLINE IntVec<T> masked(Vec<T> u, Vec<T> v) {
  return (v == T(-__builtin_inf())) & (u == u);
}

template <typename T, bool kSpherical>
struct SumPass {
  Vec<T> max_s, max_t, scale_s, scale_t;
  Vec<T> exp_u, exp_v, gap, exp_u_x, exp_v_x, exp_v_y, exp_v_y_gap;

  template <bool kLast>
  AMD_INLINE void step(int64_t, Vec<T> z_s, Vec<T> z_t, IntVec<T> fresh) {
    const Vec<T> x = z_s - max_s, y = z_t - max_t;
    const Vec<T> u = scale_s * x, v = scale_t * y;
    const Vec<T> e_u = only<kLast, T>(fresh, exp2_non_positive<T>(u));
    const Vec<T> e_v = only<kLast, T>(fresh, exp2_non_positive<T>(v));
    // Not e_v times it: the lanes that are left out may hold Inf.
    const Vec<T> term = only<kLast, T>(fresh, masked<T>(u, v) ? Vec<T>{} : e_v * (v - u));
    exp_u += e_u;
    exp_v += e_v;
    gap += term;
    if (kSpherical) {
      exp_u_x += only<kLast, T>(fresh, e_u * x);
      exp_v_x += only<kLast, T>(fresh, e_v * x);
      exp_v_y += only<kLast, T>(fresh, e_v * y);
      exp_v_y_gap += only<kLast, T>(fresh, term * y);
    }
  }
};

template <typename T, bool kSpherical>
KdSums sums_of(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row) {
  SumPass<T, kSpherical> pass{};
  pass.max_s = splat<T>(row.max_s);
  pass.max_t = splat<T>(row.max_t);
  pass.scale_s = splat<T>(row.scale_s);
  pass.scale_t = splat<T>(row.scale_t);
  over_tile<T>(z_s, z_t, count, pass);
  KdSums sums{};
  sums.exp_u = sum_lanes(pass.exp_u);
  sums.exp_v = sum_lanes(pass.exp_v);
  sums.gap = sum_lanes(pass.gap);
  if (kSpherical) {
    sums.exp_u_x = sum_lanes(pass.exp_u_x);
    sums.exp_v_x = sum_lanes(pass.exp_v_x);
    sums.exp_v_y = sum_lanes(pass.exp_v_y);
    sums.exp_v_y_gap = sum_lanes(pass.exp_v_y_gap);
  }
  return sums;
}

template <typename T>
KdSums sums(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row, bool spherical) {
  return spherical ? sums_of<T, true>(z_s, z_t, count, row)
                   : sums_of<T, false>(z_s, z_t, count, row);
}

template <typename T, bool kSpherical>
struct GradientPass {
  Vec<T> max_s, max_t, scale_s, scale_t, inverse_s, inverse_t, gap;
  Vec<T> weight_s, weight_t;  // of q - p, and of the teacher's terms, which are in powers of 2
  Vec<T> coefficient_s, mean_s, coefficient_t, mean_t;
  T *d_z_s, *d_z_t;
  int64_t count;

  template <bool kLast>
  AMD_INLINE void put(T* to, int64_t at, Vec<T> value) {
    if (kLast && count < kLanes<T>)
      store_first<T>(to, value, count);
    else
      store<T>(to + at, value);
  }

  template <bool kLast>
  AMD_INLINE void step(int64_t at, Vec<T> z_s, Vec<T> z_t, IntVec<T>) {
    const Vec<T> u = scale_s * (z_s - max_s), v = scale_t * (z_t - max_t);
    const Vec<T> p = exp2_non_positive<T>(v) * inverse_t;
    if (d_z_s) {
      const Vec<T> q = exp2_non_positive<T>(u) * inverse_s;
      // derived: dKL/dz_s = a_s (q - p), and through the norm.
      Vec<T> d = weight_s * (q - p);
      if (kSpherical) d += coefficient_s * (z_s - mean_s);
      put<kLast>(d_z_s, at, d);
    }
    if (d_z_t) {
      // derived: dKL/dz_t = a_t p ((v - u) - E_p[v - u]), and through the norm. p - p: 0 or NaN.
      Vec<T> d = masked<T>(u, v) ? p - p : weight_t * p * ((v - u) - gap);
      if (kSpherical) d += coefficient_t * (z_t - mean_t);
      put<kLast>(d_z_t, at, d);
    }
  }
};

template <typename T, bool kSpherical>
void gradients_of(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row, T weight,
                  T* d_z_s, T* d_z_t) {
  GradientPass<T, kSpherical> pass;
  pass.max_s = splat<T>(row.max_s);
  pass.max_t = splat<T>(row.max_t);
  pass.scale_s = splat<T>(row.scale_s);
  pass.scale_t = splat<T>(row.scale_t);
  pass.inverse_s = splat<T>(row.inverse_s);
  pass.inverse_t = splat<T>(row.inverse_t);
  pass.gap = splat<T>(row.gap);
  pass.weight_s = splat<T>(T(weight * (kLn2 * row.scale_s)));
  pass.weight_t = splat<T>(T(weight * (kLn2 * kLn2 * row.scale_t)));
  pass.coefficient_s = splat<T>(weight * row.coefficient_s);
  pass.mean_s = splat<T>(row.mean_s);
  pass.coefficient_t = splat<T>(weight * row.coefficient_t);
  pass.mean_t = splat<T>(row.mean_t);
  pass.d_z_s = d_z_s;
  pass.d_z_t = d_z_t;
  pass.count = count;
  over_tile<T>(z_s, z_t, count, pass);
}

template <typename T>
void gradients(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row, T weight, T* d_z_s,
               T* d_z_t) {
  // Without paths through norms not even 0 times a logit, which may be -Inf.
  if (row.coefficient_s == 0 && row.coefficient_t == 0)
    gradients_of<T, false>(z_s, z_t, count, row, weight, d_z_s, d_z_t);
  else
    gradients_of<T, true>(z_s, z_t, count, row, weight, d_z_s, d_z_t);
}

template <typename T>
void fill_kd(KdKernels<T>* table) {
  table->extents = extents<T>;
  table->sums = sums<T>;
  table->gradients = gradients<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
