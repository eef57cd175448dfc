// What the ND operators hand to the kernels. Plain structs, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace amd_fused {

// Inner products of student, teacher and class mean.
struct NdSums {
  double ss, tt, mm, sm;
};

// Passes over one tile of a row.
template <typename T>
struct NdKernels {
  NdSums (*sums)(const T* s, const T* t, const T* m, int64_t count);
  // out[i] = by_a a[i] + by_b b[i]; b may be null.
  void (*combine)(const T* a, T by_a, const T* b, T by_b, int64_t count, T* out);
};

}  // namespace amd_fused
