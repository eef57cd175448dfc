// The AMD loss's kernels for the CPU that the library runs on.

#include "amd_job.h"
#include "isa.h"

namespace amd_fused {
namespace {

struct Table {
  Kernels<float> f32{};
  Kernels<double> f64{};

  Table() {
    const Isa isa = cpu_isa();
    baseline::fill_kernels(&f32, &f64);
#if defined(__x86_64__)
    if (isa == Isa::kAvx512) avx512::fill_kernels(&f32, &f64);
    if (isa == Isa::kAvx2) avx2::fill_kernels(&f32, &f64);
#endif
    (void)isa;
  }
};

const Table& table() {
  static const Table instance;
  return instance;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return table().f32;
}
template <>
const Kernels<double>& kernels<double>() {
  return table().f64;
}

}  // namespace amd_fused
