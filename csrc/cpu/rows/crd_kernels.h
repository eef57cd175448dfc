// The pass of the CRD loss over candidates: each row is read from memory once, for its score and,
// out of a near cache, for the gradient.
#pragma once

#include "amd_math.h"
#include "crd_rows.h"
#include "lanes.h"

namespace amd_fused {
namespace AMD_ISA {

constexpr int64_t kLine = 64;  // bytes of a cache line

// A vector of a row; kWhole: rows are whole vectors.
template <bool kWhole, typename T>
AMD_INLINE Vec<T> load_some(const T* p, int64_t left) {
  return kWhole || left >= kLanes<T> ? load<T>(p) : load_first<T>(p, left);
}

// Of up to a vector of candidates: scores, then terms, then the rows once more.
template <bool kWhole, typename T>
AMD_INLINE double crd_group(const CrdCandidates<T>& of, int64_t first, int64_t count) {
  constexpr int kL = kLanes<T>;
  const T* const* const rows = of.rows + first;
  const int64_t following = of.count - first - count;  // candidates of the next group
  Vec<T> u{};
  for (int64_t i = 0; i < count; ++i) {
    if (i < following)
      for (int64_t byte = 0; byte < of.width * int64_t(sizeof(T)); byte += kLine)
        __builtin_prefetch((const char*)rows[count + i] + byte);
    Vec<T> sum{};
    for (int64_t d = 0; d < of.width; d += kL)
      sum += load_some<kWhole>(of.anchor + d, of.width - d) *
             load_some<kWhole>(rows[i] + d, of.width - d);
    u[i] = T(sum_lanes(sum));
  }
  u = u * of.inverse_temperature - of.log_h;
  // softplus(u) is -log sigmoid(-u).
  const LogSigmoid<Vec<T>> log_p = log_sigmoid<T>(-u, exp_non_positive<T>(u > 0 ? -u : u));
  if (of.slope) {
    for (int64_t d = 0; d < of.width; d += kL) {
      const int64_t left = of.width - d;
      Vec<T> slope = load_some<kWhole>(of.slope + d, left);
      for (int64_t i = 0; i < count; ++i)
        slope += log_p.slope[i] * load_some<kWhole>(rows[i] + d, left);
      if (kWhole || left >= kL)
        store<T>(of.slope + d, slope);
      else
        store_first<T>(of.slope + d, slope, left);
    }
  }
  return sum_lanes(first_lanes<T>(count) ? -log_p.value : Vec<T>{});
}

template <typename T>
double crd_terms(const CrdCandidates<T>& of) {
  constexpr int64_t kL = kLanes<T>;
  double sum = 0;
  for (int64_t first = 0; first < of.count; first += kL) {
    const int64_t count = of.count - first < kL ? of.count - first : kL;
    sum +=
        of.width % kL == 0 ? crd_group<true>(of, first, count) : crd_group<false>(of, first, count);
  }
  return sum;
}

template <typename T>
void fill_crd(CrdKernels<T>* table) {
  table->terms = crd_terms<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
