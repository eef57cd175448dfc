// What the SP operators hand to the kernels. Plain structs, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace amd_fused {

// Rows that one kernel call takes together, each a pointer of its own.
constexpr int kDotRows = 4, kMixRows = 8;

template <typename T>
struct SpKernels {
  // sums[i * kDotRows + j] += <a[i], b[j]> over `count` elements.
  void (*dots)(const T* const a[kDotRows], const T* const b[kDotRows], int64_t count, T* sums);
  // out[i][k] = sum_j factors[i][j] rows[j][k] for j in [0, terms) and k in [0, count).
  void (*mix)(const T* const factors[kMixRows], const T* const* rows, int64_t terms, int64_t count,
              T* const out[kMixRows]);
};

}  // namespace amd_fused
