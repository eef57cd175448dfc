// What the KD operators hand to the kernels: plain structs, the same for every instruction set.
//
// Both losses are KL(softmax(v) || softmax(u)), u = a_s z_s and v = a_t z_t, with one factor a row:
// 1 / tau for KD, r / (tau |z|) for its spherical form. x = z_s - max z_s and y = z_t - max z_t
// stand for the logits below: a softmax does not see the difference, and no exponent is positive.
#pragma once

#include <stdint.h>

namespace amd_fused {

// The kernels raise 2, not e: factors and gaps that they see are log2(e) times those.
constexpr double kLn2 = 0.69314718055994530942;

enum LogitNorm { kNoNorm, kStd, kL2 };  // amd_fused/losses/kd/operator.py has the same numbers

// What the backward pass needs of a row; the operator's tensor `rows` [B, 11] holds these.
template <typename T>
struct KdRow {
  T max_s, max_t;          // of the logits
  T scale_s, scale_t;      // a_s and a_t times log2(e)
  T inverse_s, inverse_t;  // 1 / sum exp(u), 1 / sum exp(v)
  T gap;                   // E_p[v - u] times log2(e)
  // The paths through the norms add coefficient * (z - mean) to a gradient by z.
  T coefficient_s, mean_s, coefficient_t, mean_t;
};
constexpr int kKdRowNumbers = 11;

// Of one tile of the logits of one side.
struct KdExtent {
  double max, mean, square;  // square: sum (z - mean)^2; for kL2 the mean is taken as 0
};

struct KdSums {
  double exp_u, exp_v;  // sum e^u, sum e^v
  double gap;           // sum e^v (v - u), times log2(e)
  // Spherical only, for the derivatives by a_s and a_t.
  double exp_u_x, exp_v_x;      // sum e^u x, sum e^v x
  double exp_v_y, exp_v_y_gap;  // sum e^v y, sum e^v y (v - u) times log2(e)
};

// Passes over one tile of a row: x and y are the logits of student and teacher there.
template <typename T>
struct KdKernels {
  void (*extents)(const T* z_s, const T* z_t, int64_t count, LogitNorm norm, KdExtent of[2]);
  KdSums (*sums)(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row, bool spherical);
  // Either gradient may be null. weight: of this row's KL in the loss, upstream gradient included.
  void (*gradients)(const T* z_s, const T* z_t, int64_t count, const KdRow<T>& row, T weight,
                    T* d_z_s, T* d_z_t);
};

}  // namespace amd_fused
