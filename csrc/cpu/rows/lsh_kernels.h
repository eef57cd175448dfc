// The cross-entropy of hashes, value and gradient in one pass over one tile of a row.
#pragma once

#include "amd_math.h"
#include "lsh_rows.h"
#include "vector_exp.h"

namespace amd_fused {
namespace AMD_ISA {

template <typename T>
double lsh_bce(T* hash_s, const T* hash_t, const T* bias, int64_t count, bool needs_grad) {
  constexpr int64_t kStep = kLanes<T>;
  Vec<T> sum{};
  for (int64_t i = 0; i < count; i += kStep) {
    const int64_t left = count - i;
    const bool whole = left >= kStep;
    Vec<T> x = whole ? load<T>(hash_s + i) : load_first<T>(hash_s + i, left);
    Vec<T> of_t = whole ? load<T>(hash_t + i) : load_first<T>(hash_t + i, left);
    if (bias) {
      const Vec<T> b = whole ? load<T>(bias + i) : load_first<T>(bias + i, left);
      x += b;
      of_t += b;
    }
    // A hash of NaN or Inf is neither side of its hyperplane: it must reach loss and gradient.
    const Vec<T> invalid = (x - x) + (of_t - of_t);
    // The cross-entropy of a side is -log sigmoid(z), z = +x on the positive side, -x elsewhere.
    const Vec<T> z = of_t > 0 ? x : -x;
    const Vec<T> e = exp_non_positive<T>(z > 0 ? -z : z);
    const LogSigmoid<Vec<T>> log_p = log_sigmoid<T>(z, e);
    const Vec<T> value = invalid - log_p.value;
    sum += whole ? value : (first_lanes<T>(left) ? value : Vec<T>{});
    if (!needs_grad) continue;
    // sigmoid(x) - side
    const Vec<T> gradient = (of_t > 0 ? -log_p.slope : log_p.slope) + invalid;
    if (whole)
      store<T>(hash_s + i, gradient);
    else
      store_first<T>(hash_s + i, gradient, left);
  }
  return horizontal_sum<T>(sum);
}

template <typename T>
void fill_lsh(LshKernels<T>* table) {
  table->bce = lsh_bce<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
