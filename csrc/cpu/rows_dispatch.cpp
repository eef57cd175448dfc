// The row kernels for the CPU that the library runs on.

#include "isa.h"
#include "rows.h"

namespace amd_fused {
namespace {

struct Table {
  RowKernels<float> f32{};
  RowKernels<double> f64{};

  Table() {
    const Isa isa = cpu_isa();
    baseline::fill_row_kernels(&f32, &f64);
#if defined(__x86_64__)
    if (isa == Isa::kAvx512) avx512::fill_row_kernels(&f32, &f64);
    if (isa == Isa::kAvx2) avx2::fill_row_kernels(&f32, &f64);
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
const RowKernels<float>& row_kernels<float>() {
  return table().f32;
}
template <>
const RowKernels<double>& row_kernels<double>() {
  return table().f64;
}

}  // namespace amd_fused
