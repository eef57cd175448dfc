// Picks the kernels by the CPU that the library runs on, not the one it was built on.

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "amd_job.h"
#include "rows.h"

namespace amd_fused {
namespace {

struct Table {
  Kernels<float> amd_f32{};
  Kernels<double> amd_f64{};
  RowKernels<float> rows_f32{};
  RowKernels<double> rows_f64{};

  Table() {
    // For tests and bug reports: a narrower set than the CPU has, never a wider one.
    const char* limit = std::getenv("AMD_FUSED_CPU_ISA");
    const std::string wanted = limit ? limit : "avx512";
    if (wanted != "baseline" && wanted != "avx2" && wanted != "avx512")
      throw std::runtime_error(
          "amd_fused: the environment variable AMD_FUSED_CPU_ISA must be one of baseline, avx2, "
          "avx512, got '" +
          wanted + "'");
    fill(baseline::fill_kernels, baseline::fill_row_kernels);
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c");
    const bool has_avx512 =
        has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (has_avx512 && wanted == "avx512") {
      fill(avx512::fill_kernels, avx512::fill_row_kernels);
    } else if (has_avx2 && wanted != "baseline") {
      fill(avx2::fill_kernels, avx2::fill_row_kernels);
    }
#endif
  }

  template <typename Amd, typename Rows>
  void fill(Amd fill_amd, Rows fill_rows) {
    fill_amd(&amd_f32, &amd_f64);
    fill_rows(&rows_f32, &rows_f64);
  }
};

const Table& table() {
  static const Table instance;
  return instance;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return table().amd_f32;
}
template <>
const Kernels<double>& kernels<double>() {
  return table().amd_f64;
}
template <>
const RowKernels<float>& row_kernels<float>() {
  return table().rows_f32;
}
template <>
const RowKernels<double>& row_kernels<double>() {
  return table().rows_f64;
}

}  // namespace amd_fused
