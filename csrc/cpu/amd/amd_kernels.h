// The table of one instruction set's AMD kernels. Included once by each <isa>.cpp.

#include "afd_map.h"
#include "amd_grad.h"
#include "amd_map.h"
#include "amd_sample.h"

namespace amd_fused {
namespace AMD_ISA {

template <typename T, typename S>
void fill_storage(Kernels<T>* table, Storage storage) {
  table->attention_map[storage] = attention_map<T, S>;
  table->map_and_sums[storage] = map_and_sums<T, S>;
  table->feature_gradient[storage] = feature_gradient<T, S>;
}

template <typename T>
void fill(Kernels<T>* table) {
  fill_storage<T, float>(table, kFloat32);
  fill_storage<T, F16>(table, kFloat16);
  fill_storage<T, Bf16>(table, kBfloat16);
  table->square_sums = square_sums<T>;
  table->evaluate = evaluate<T>;
  table->distances = distances<T>;
  table->slopes = slopes<T>;
  table->map_gradient = map_gradient<T>;
}

// Every input is computed in float32 unless one of them is float64.
void fill_kernels(Kernels<float>* f32, Kernels<double>* f64) {
  fill(f32);
  fill(f64);
  fill_storage<double, double>(f64, kFloat64);
}

}  // namespace AMD_ISA
}  // namespace amd_fused
