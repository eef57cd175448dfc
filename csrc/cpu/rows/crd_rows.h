// What the CRD operator hands to its kernel. Plain structs, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace amd_fused {

// An anchor and some candidates, rows of a bank. Terms are softplus(u) of u = <anchor, row> *
// inverse_temperature - log_h.
template <typename T>
struct CrdCandidates {
  const T* anchor;       // [width]
  const T* const* rows;  // [count], each [width]
  int64_t count, width;
  T inverse_temperature, log_h;
  T* slope;  // [width], to which sigmoid(u) row is added; null: not wanted
};

template <typename T>
struct CrdKernels {
  double (*terms)(const CrdCandidates<T>& candidates);  // their sum
};

}  // namespace amd_fused
