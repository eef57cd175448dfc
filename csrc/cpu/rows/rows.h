// The table of the row-wise losses' kernels, whose inputs are matrices [B, K] taken row by row. An
// operator works in tiles of a row: it widens a tile to the compute dtype T where the row is not
// already contiguous and of that type, so that the kernels themselves know T only.
#pragma once

#include "afds_rows.h"
#include "crd_rows.h"
#include "kd_map_rows.h"
#include "kd_rows.h"
#include "lsh_rows.h"
#include "nd_rows.h"
#include "storage.h"

namespace amd_fused {

constexpr int64_t kTile = 2048;  // elements of a row that one kernel call sees

template <typename T>
struct RowKernels {
  // to[i] = from[i * stride] for i in [0, count); `from` and `stride` in elements of the storage.
  void (*widen[kStorageCount])(const void* from, int64_t stride, int64_t count, T* to);
  // to[i * stride] = from[i], rounded to the storage. past_cache: written around the caches where
  // the stride is 1; made visible to other threads before it returns.
  void (*narrow[kStorageCount])(const T* from, int64_t count, void* to, int64_t stride,
                                bool past_cache);
  KdKernels<T> kd;
  KdMapKernels<T> kd_map;
  NdKernels<T> nd;
  LshKernels<T> lsh;
  AfdsKernels<T> afds;
  CrdKernels<T> crd;
};

template <typename T>
const RowKernels<T>& row_kernels();  // the widest that this CPU runs

#define AMD_DECLARE_ROWS(isa)                                             \
  namespace isa {                                                         \
  void fill_row_kernels(RowKernels<float>* f32, RowKernels<double>* f64); \
  }
AMD_DECLARE_ROWS(baseline)
AMD_DECLARE_ROWS(avx2)
AMD_DECLARE_ROWS(avx512)

}  // namespace amd_fused
