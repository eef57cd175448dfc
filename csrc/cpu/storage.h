// How elements lie in memory. Plain types only: included for every instruction set.
#pragma once

#include <stddef.h>
#include <stdint.h>
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

enum Storage { kFloat32, kFloat64, kFloat16, kBfloat16, kStorageCount };

}  // namespace amd_fused
