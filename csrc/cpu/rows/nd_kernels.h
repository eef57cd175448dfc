// Passes of the ND loss over one tile of a row.
#pragma once

#include "nd_rows.h"
#include "simd.h"

namespace amd_fused {
namespace AMD_ISA {

template <typename T>
NdSums nd_sums(const T* s, const T* t, const T* m, int64_t count) {
  constexpr int64_t kStep = kLanes<T>;
  Vec<T> ss{}, tt{}, mm{}, sm{};
  for (int64_t i = 0; i < count; i += kStep) {
    const int64_t left = count - i;
    const bool whole = left >= kStep;
    const Vec<T> x = whole ? load<T>(s + i) : load_first<T>(s + i, left);
    const Vec<T> y = whole ? load<T>(t + i) : load_first<T>(t + i, left);
    const Vec<T> z = whole ? load<T>(m + i) : load_first<T>(m + i, left);
    ss += x * x;
    tt += y * y;
    mm += z * z;
    sm += x * z;
  }
  return {horizontal_sum<T>(ss), horizontal_sum<T>(tt), horizontal_sum<T>(mm),
          horizontal_sum<T>(sm)};
}

template <typename T>
void nd_combine(const T* a, T by_a, const T* b, T by_b, int64_t count, T* out) {
  constexpr int64_t kStep = kLanes<T>;
  for (int64_t i = 0; i < count; i += kStep) {
    const int64_t left = count - i;
    const bool whole = left >= kStep;
    Vec<T> value = (whole ? load<T>(a + i) : load_first<T>(a + i, left)) * by_a;
    if (b) value += (whole ? load<T>(b + i) : load_first<T>(b + i, left)) * by_b;
    if (whole)
      store<T>(out + i, value);
    else
      store_first<T>(out + i, value, left);
  }
}

template <typename T>
void fill_nd(NdKernels<T>* table) {
  table->sums = nd_sums<T>;
  table->combine = nd_combine<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
