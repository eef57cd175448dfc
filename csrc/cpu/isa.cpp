#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace amd_fused {

Isa cpu_isa() {
  // For tests and bug reports: a narrower set than the CPU has, never a wider one.
  const char* limit = std::getenv("AMD_FUSED_CPU_ISA");
  const std::string wanted = limit ? limit : "avx512";
  if (wanted != "baseline" && wanted != "avx2" && wanted != "avx512")
    throw std::runtime_error(
        "amd_fused: the environment variable AMD_FUSED_CPU_ISA must be one of baseline, avx2, "
        "avx512, got '" +
        wanted + "'");
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && wanted == "avx512") return Isa::kAvx512;
  if (has_avx2 && wanted != "baseline") return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

}  // namespace amd_fused
