// How elements lie in memory. Plain types only: included for every instruction set.
#pragma once

#include <stddef.h>

#include "amd_features.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace amd_fused {

struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};

}  // namespace amd_fused
