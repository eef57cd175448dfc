// The matrices [B, K] of the row-wise losses, tile by tile, as contiguous numbers of the compute
// dtype T.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "amd_tensors.h"
#include "rows.h"

namespace amd_fused {

// How numbers of the compute dtype lie in memory.
template <typename T>
constexpr Storage kOwnStorage = sizeof(T) == 8 ? kFloat64 : kFloat32;

// An input or an output. Strides in elements.
struct Matrix {
  char* data;
  Storage storage;
  int64_t element;  // bytes
  int64_t rows, columns, row_stride, column_stride;

  void* at(int64_t row, int64_t column) const {
    return data + (row * row_stride + column * column_stride) * element;
  }
};

inline Matrix matrix_of(const Tensor& a) {
  const int64_t columns = a.size(1);
  return {static_cast<char*>(a.data_ptr()),
          storage_of(a),
          int64_t(a.element_size()),
          a.size(0),
          columns,  // one column alone has no neighbour
          a.stride(0),
          columns > 1 ? a.stride(1) : 1};
}

template <typename T>
bool is_plain(const Matrix& a) {
  return a.storage == kOwnStorage<T> && a.column_stride == 1;
}

// Reads elements [begin, begin + count) of a row: where they lie if that will do, else widened into
// `buffer`.
template <typename T>
const T* read_tile(const Matrix& a, int64_t row, int64_t begin, int64_t count, T* buffer) {
  const void* from = a.at(row, begin);
  if (is_plain<T>(a)) return static_cast<const T*>(from);
  row_kernels<T>().widen[a.storage](from, a.column_stride, count, buffer);
  return buffer;
}

// Elements that a parallel unit holds at least: fewer do not pay for its scheduling.
constexpr int64_t kUnitElements = 1 << 15;

inline int64_t rows_of_a_unit(int64_t columns) {
  return std::max<int64_t>(1, kUnitElements / columns);
}

// Of a sum of squares; Inf becomes NaN, which is heard.
inline double norm_of(double square_sum) {
  const double norm = std::sqrt(square_sum);
  return std::isinf(norm) ? std::numeric_limits<double>::quiet_NaN() : norm;
}

inline int64_t tiles_of(int64_t columns) { return (columns + kTile - 1) / kTile; }

// Runs f(tile, begin, count) over the tiles of a row. f may not depend on anything that another
// tile's f writes.
template <typename F>
void over_tiles(int64_t columns, bool parallel, const F& f) {
  auto range = [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile)
      f(tile, tile * kTile, std::min(kTile, columns - tile * kTile));
  };
  if (parallel)
    torch::stable::parallel_for(0, tiles_of(columns), kUnitElements / kTile, range);
  else
    range(0, tiles_of(columns));
}

// Runs f(first row, last row, share_tiles). The threads share the rows; where there are fewer long
// rows than threads, the tiles of one row after another.
template <typename F>
void over_rows(int64_t rows, int64_t columns, const F& f) {
  if (rows < int64_t(torch::stable::get_num_threads()) && columns > 2 * kUnitElements)
    return f(0, rows, true);
  torch::stable::parallel_for(0, rows, rows_of_a_unit(columns),
                              [&](int64_t first, int64_t last) { f(first, last, false); });
}

}  // namespace amd_fused
