// What the LSH operator hands to the kernel. Plain structs, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace amd_fused {

template <typename T>
struct LshKernels {
  // Sum of the cross-entropies of the logits W s + b with the sides [W t + b > 0], over one tile of
  // a row; hash_s = W s becomes the gradient by it if needs_grad. bias may be null.
  double (*bce)(T* hash_s, const T* hash_t, const T* bias, int64_t count, bool needs_grad);
};

}  // namespace amd_fused
