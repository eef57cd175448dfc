// The kernels for x86-64 CPUs with AVX2, FMA and F16C (2013 and later).
#if defined(__x86_64__)
#include "storage.h"  // brings the system's headers before the target changes
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define AMD_ISA avx2
#define AMD_AVX2
#include "amd_kernels.h"
#include "rows_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
