// The products of the SP loss: blocks of rows whose sums stay in registers.
#pragma once

#include "lanes.h"
#include "sp_rows.h"

namespace amd_fused {
namespace AMD_ISA {

// As many rows as there are registers for sums of them: 32 vectors, elsewhere 8 or 4.
#if defined(AMD_AVX512)
constexpr int kDotBlock = kDotRows, kMixBlock = kMixRows;
#else
constexpr int kDotBlock = 2, kMixBlock = 2;
#endif
constexpr int kMixVectors = 2;

// sum[i][j] += a[i] b[j]
template <typename T>
AMD_INLINE void add_products(const Vec<T>* a, const Vec<T>* b, Vec<T> (*sum)[kDotBlock]) {
  for (int i = 0; i < kDotBlock; ++i)
    for (int j = 0; j < kDotBlock; ++j) sum[i][j] += a[i] * b[j];
}

template <typename T>
AMD_INLINE void dot_block(const T* const* a, const T* const* b, int64_t count, T* sums) {
  constexpr int64_t kStep = kLanes<T>;
  Vec<T> sum[kDotBlock][kDotBlock] = {}, x[kDotBlock], y[kDotBlock];
  int64_t k = 0;
  for (; k + kStep <= count; k += kStep) {
    for (int i = 0; i < kDotBlock; ++i) x[i] = load<T>(a[i] + k);
    for (int j = 0; j < kDotBlock; ++j) y[j] = load<T>(b[j] + k);
    add_products<T>(x, y, sum);
  }
  if (k < count) {
    for (int i = 0; i < kDotBlock; ++i) x[i] = load_first<T>(a[i] + k, count - k);
    for (int j = 0; j < kDotBlock; ++j) y[j] = load_first<T>(b[j] + k, count - k);
    add_products<T>(x, y, sum);
  }
  // As many sums as a vector has lanes become one vector at a time.
  constexpr int kSums = kDotBlock * kDotBlock, kLength = kLanes<T>;
  Vec<T> group[kLength];
  for (int first = 0; first < kSums; first += kLength) {
    for (int i = 0; i < kLength; ++i) {
      const int at = first + i;
      group[i] = at < kSums ? sum[at / kDotBlock][at % kDotBlock] : Vec<T>{};
    }
    const Vec<T> totals = transposed_sums<T>(group);
    for (int i = 0; i < kLength && first + i < kSums; ++i) {
      const int at = first + i;
      sums[at / kDotBlock * kDotRows + at % kDotBlock] += totals[i];
    }
  }
}

template <typename T>
void sp_dots(const T* const a[kDotRows], const T* const b[kDotRows], int64_t count, T* sums) {
  for (int i = 0; i < kDotRows; i += kDotBlock)
    for (int j = 0; j < kDotRows; j += kDotBlock)
      dot_block<T>(a + i, b + j, count, sums + i * kDotRows + j);
}

// kCount vectors of kMixBlock sums; of the last, `length` elements.
template <typename T, int kCount>
AMD_INLINE void mix_block(const T* const* factors, const T* const* rows, int64_t terms, int64_t k,
                          int64_t length, T* const* out) {
  constexpr int64_t kStep = kLanes<T>;
  Vec<T> sum[kMixBlock][kCount] = {};
  for (int64_t j = 0; j < terms; ++j) {
    Vec<T> x[kCount];
    for (int v = 0; v < kCount; ++v)
      x[v] = length < kStep ? load_first<T>(rows[j] + k, length) : load<T>(rows[j] + k + v * kStep);
    for (int i = 0; i < kMixBlock; ++i)
      for (int v = 0; v < kCount; ++v) sum[i][v] += x[v] * factors[i][j];
  }
  for (int i = 0; i < kMixBlock; ++i)
    for (int v = 0; v < kCount; ++v) {
      if (length < kStep)
        store_first<T>(out[i] + k, sum[i][v], length);
      else
        store<T>(out[i] + k + v * kStep, sum[i][v]);
    }
}

template <typename T>
void sp_mix(const T* const factors[kMixRows], const T* const* rows, int64_t terms, int64_t count,
            T* const out[kMixRows]) {
  constexpr int64_t kStep = kLanes<T>;
  for (int i = 0; i < kMixRows; i += kMixBlock) {
    int64_t k = 0;
    for (; k + kMixVectors * kStep <= count; k += kMixVectors * kStep)
      mix_block<T, kMixVectors>(factors + i, rows, terms, k, kStep, out + i);
    for (; k < count; k += kStep)
      mix_block<T, 1>(factors + i, rows, terms, k, count - k < kStep ? count - k : kStep, out + i);
  }
}

template <typename T>
void fill_sp(SpKernels<T>* table) {
  table->dots = sp_dots<T>;
  table->mix = sp_mix<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
