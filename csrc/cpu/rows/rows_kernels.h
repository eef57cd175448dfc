// The table of one instruction set's row kernels. Included once by each <isa>.cpp.

#include "afds_kernels.h"
#include "crd_kernels.h"
#include "kd_kernels.h"
#include "kd_map_kernels.h"
#include "lsh_kernels.h"
#include "nd_kernels.h"
#include "rows.h"

namespace amd_fused {
namespace AMD_ISA {

template <typename T, typename S>
void widen(const void* from, int64_t stride, int64_t count, T* to) {
  const S* p = static_cast<const S*>(from);
  int64_t i = 0;
  if (stride == 1)
    for (; i + kLanes<T> <= count; i += kLanes<T>) store<T>(to + i, load<T>(p + i));
  for (; i < count; ++i) to[i] = load_first<T>(p + i * stride, 1)[0];
}

template <typename T, typename S>
void narrow(const T* from, int64_t count, void* to, int64_t stride, bool past_cache) {
  S* p = static_cast<S*>(to);
  int64_t i = 0;
  if (stride == 1) {
    constexpr uintptr_t kPacked = kLanes<T> * sizeof(S);
    if (past_cache)
      for (; i < count && (uintptr_t)(p + i) % kPacked != 0; ++i)
        store_first<T>(p + i, splat<T>(from[i]), 1);
    for (; i + kLanes<T> <= count; i += kLanes<T>) {
      const Vec<T> v = load<T>(from + i);
      if (past_cache)
        stream<T>(p + i, v);
      else
        store<T>(p + i, v);
    }
    if (past_cache) stream_fence();
  }
  for (; i < count; ++i) store_first<T>(p + i * stride, splat<T>(from[i]), 1);
}

template <typename T, typename S>
void fill_row_storage(RowKernels<T>* table, Storage storage) {
  table->widen[storage] = widen<T, S>;
  table->narrow[storage] = narrow<T, S>;
}

template <typename T>
void fill_rows(RowKernels<T>* table) {
  fill_row_storage<T, float>(table, kFloat32);
  fill_row_storage<T, F16>(table, kFloat16);
  fill_row_storage<T, Bf16>(table, kBfloat16);
  fill_kd(&table->kd);
  fill_kd_map(&table->kd_map);
  fill_nd(&table->nd);
  fill_lsh(&table->lsh);
  fill_afds(&table->afds);
  fill_crd(&table->crd);
}

// Every input is computed in float32 unless one of them is float64.
void fill_row_kernels(RowKernels<float>* f32, RowKernels<double>* f64) {
  fill_rows(f32);
  fill_rows(f64);
  fill_row_storage<double, double>(f64, kFloat64);
}

}  // namespace AMD_ISA
}  // namespace amd_fused
