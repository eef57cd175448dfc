// The kernels for the compiler's default target: SSE2 on x86-64, NEON on AArch64.
#define AMD_ISA baseline
#include "amd_kernels.h"
#include "rows_kernels.h"
