// Backward: dL/dA_ci = 2 A_ci dL/df_i, times the upstream gradient before the cast to the features'
// dtype. One read of A, one write of its gradient.
#pragma once

#include "storage.cuh"

namespace amd_fused {
namespace cuda {

// Where a block works: rows row, row + groups, ... and one slot of each, for one thread.
struct Tile {
  int64_t b;
  int slot, row, groups, end_row;
};

// slot * elements on: 16 bytes of each row. Where channels are rows the factors are those of the
// slot's positions, where pixels are rows that of the row.
template <bool kPixels, typename T>
__device__ __forceinline__ void scale_slots(const GradientOf<T>& x, const Tile& tile, T scale) {
  const int elements = 16 / x.itemsize, positions = x.height * x.width;
  const T* d_f = x.d_f + tile.b * positions;
  const int64_t row = kPixels ? (x.width > 1 ? x.stride_w : x.stride_h) : x.rows * x.stride_c;
  const int64_t out_row =
      kPixels ? (x.width > 1 ? x.out_stride_w : x.out_stride_h) : x.rows * x.out_stride_c;
  const char* a =
      static_cast<const char*>(x.data) + (tile.b * x.stride_b + tile.slot * elements) * x.itemsize;
  char* gradient = static_cast<char*>(x.gradient) +
                   (tile.b * x.out_stride_b + tile.slot * elements) * x.itemsize;
  T factor[kMaxPacket] = {};
  if (!kPixels) {
    int i = tile.slot * elements % positions;
#pragma unroll
    for (int k = 0; k < kMaxPacket; ++k) {
      if (k >= elements) break;
      factor[k] = scale * __ldg(d_f + i);
      i = i + 1 == positions ? 0 : i + 1;
    }
  }
#pragma unroll 1
  for (int first = tile.row; first < tile.end_row; first += kRowsAtOnce * tile.groups) {
    uint4 bits[kRowsAtOnce];
    T of_pixel[kRowsAtOnce];
#pragma unroll
    for (int j = 0; j < kRowsAtOnce; ++j) {
      const int at = first + j * tile.groups;
      if (at >= tile.end_row) continue;
      // Evict first: read for the last time here, and the gradient, which the next kernel reads, is
      // to stay in the caches.
      bits[j] = __ldcs(reinterpret_cast<const uint4*>(a + at * row * x.itemsize));
      if (kPixels) of_pixel[j] = scale * __ldg(d_f + at);
    }
    for_storage<T>(x.storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll
      for (int j = 0; j < kRowsAtOnce; ++j) {
        uint4 scaled;
#pragma unroll
        for (int k = 0; k < kElements<S>; ++k) {
          const T value = get<T, S>(bits[j], k);
          put(scaled, k, S(value * (kPixels ? of_pixel[j] : factor[k])));
        }
        bits[j] = scaled;
      }
    });
#pragma unroll
    for (int j = 0; j < kRowsAtOnce; ++j) {
      const int at = first + j * tile.groups;
      if (at < tile.end_row)
        __stwb(reinterpret_cast<uint4*>(gradient + at * out_row * x.itemsize), bits[j]);
    }
  }
}

// One channel of one position, for any strides.
template <typename T>
__device__ __forceinline__ void scale_element(const GradientOf<T>& x, int64_t b, int c, int i,
                                              T factor) {
  const int row = i / x.width, column = i - row * x.width;
  const int64_t from = b * x.stride_b + c * x.stride_c + row * x.stride_h + column * x.stride_w;
  const int64_t to =
      b * x.out_stride_b + c * x.out_stride_c + row * x.out_stride_h + column * x.out_stride_w;
  for_storage<T>(x.storage, [&](auto zero) {
    using S = decltype(zero);
    const T value = number<T>(static_cast<const S*>(x.data)[from]);
    static_cast<S*>(x.gradient)[to] = S(value * factor);
  });
}

template <typename T>
__device__ __forceinline__ void feature_gradient(const GradientOf<T>& x, int unit,
                                                 const T* grad_loss, int64_t stride_grad_loss) {
  const int slot_tile = unit % x.tiles, row_block = unit / x.tiles % x.row_blocks;
  const int64_t b = unit / x.tiles / x.row_blocks;
  const int positions = x.height * x.width, elements = x.wide ? 16 / x.itemsize : 1;
  const T scale = 2 * grad_loss[b * stride_grad_loss];
  const T* d_f = x.d_f + b * positions;

  const int slots = (x.pixels ? x.channels : x.rows * positions) / elements;
  const int rows = x.pixels ? positions : x.channels / x.rows;
  const int groups = kGradientThreads / x.slots_per_tile;
  const int per_block = groups * kRowsAtOnce * x.steps, begin_row = row_block * per_block;
  const int end_row = min(rows, begin_row + per_block);
  const int group = threadIdx.x / x.slots_per_tile;
  const int slot = slot_tile * x.slots_per_tile + threadIdx.x % x.slots_per_tile;
  if (group < groups && slot < slots) {
    const Tile tile{b, slot, begin_row + group, groups, end_row};
    if (x.wide && x.pixels) {
      scale_slots<true>(x, tile, scale);
    } else if (x.wide) {
      scale_slots<false>(x, tile, scale);
    } else {
#pragma unroll 4
      for (int row = begin_row + group; row < end_row; row += groups) {
        const int c = x.pixels ? slot : row, i = x.pixels ? row : slot;
        scale_element(x, b, c, i, scale * d_f[i]);
      }
    }
  }
  // What makes no whole slot: the last channels of a pixel, or the last rows.
  if (!x.wide || slot_tile + 1 < x.tiles) return;
  if (x.pixels) {
    const int first = slots * elements, rest = x.channels - first;
    for (int k = threadIdx.x; k < rest * (end_row - begin_row); k += kGradientThreads) {
      const int i = begin_row + k / rest;
      scale_element(x, b, first + k % rest, i, scale * d_f[i]);
    }
  } else if (row_block + 1 == x.row_blocks) {
    const int first = rows * x.rows, rest = x.channels - first;
    for (int k = threadIdx.x; k < rest * positions; k += kGradientThreads)
      scale_element(x, b, first + k / positions, k % positions, scale * d_f[k % positions]);
  }
}

}  // namespace cuda
}  // namespace amd_fused
