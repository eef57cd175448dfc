// What the dense KD operators hand to the kernels: logits [K, N] of one sample, position by position.
// A lane of a vector is a position, and classes follow one another: nothing is summed over lanes.
#pragma once

#include "kd_rows.h"

namespace amd_fused {

struct KdForm {
  LogitNorm norm;
  double softening;  // 1 / tau
  bool fixed_radius;
  double radius;
};

// Positions of a block side by side: class k of the first one at data[k * stride].
template <typename T>
struct KdSide {
  T* data;  // null: not wanted
  int64_t stride;
};

// The planes of the tensor `rows` [B, planes, N], those of KD itself first. All are 0 where a
// position does not count: the sums' inverses are at least 1 / K elsewhere.
enum KdPlane {
  kMaxS,
  kMaxT,
  kInverseS,
  kInverseT,
  kGap,
  kKdPlanes,
  kScaleS = kKdPlanes,
  kScaleT,
  kCoefficientS,
  kMeanS,
  kCoefficientT,
  kMeanT,
  kSphericalPlanes
};
static_assert(kSphericalPlanes == kKdRowNumbers, "the fake kernel of kd/operator.py");

template <typename T>
struct KdMapKernels {
  // `planes` begins at the block's first position; planes are `stride` apart. kl: of each position.
  // counted: null where all positions count.
  void (*divergences)(KdSide<const T> z_s, KdSide<const T> z_t, int64_t classes, int64_t count,
                      const KdForm& form, const bool* counted, T* planes, int64_t stride,
                      double* kl);
  // weight: of a position's KL in the loss, upstream gradient included.
  void (*gradients)(KdSide<const T> z_s, KdSide<const T> z_t, int64_t classes, int64_t count,
                    const KdForm& form, const T* planes, int64_t stride, T weight, KdSide<T> d_z_s,
                    KdSide<T> d_z_t);
};

}  // namespace amd_fused
