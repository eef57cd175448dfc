// What the operators hand to the kernels, by value: plain structs. A launch takes 4 KB of them, so
// more than kMaxLayers layers go into further launches.
#pragma once

#include <stdint.h>

#include "amd_features.h"

namespace amd_fused {

struct Grid {
  int64_t blocks;
  int threads;
  int shared_bytes;
  void* stream;  // cudaStream_t; the operators know of no CUDA type
};

constexpr int kMaxLayers = 16;
// Threads of a block, by kernel; the sample kernels take as many as their largest map wants.
constexpr int kMaxSampleThreads = 384, kMapThreads = 128, kChunkThreads = 256,
              kGradientThreads = 256, kLayerThreads = 128;
constexpr int kRowsAtOnce = 4;        // loads under way at once, a thread of the backward kernel
constexpr int kMaxPacket = 8;         // elements of 16 bytes, at the most
constexpr int kChunkPositions = 256;  // of each quadrant, in a chunk
// Sums that a chunk leaves by quadrant, a slot each: 2 of f^2, 6 of x^2, 6 of D_x, 2 of u f.
constexpr int kSlotsOfAll = 16;

// Passes of the chunked form, in order.
enum Pass { kNormPass, kSquarePass, kDistancePass, kSlopePass, kGradientPass };

// One side's features of one layer pair, strides in elements.
struct DeviceFeatures {
  const void* data;  // [B, C, H, W]
  int64_t stride_b, stride_c, stride_h, stride_w;
  int32_t channels, height, width;
  int16_t storage, itemsize, layout;
  // 16-byte loads, of rows that are taken `rows` at a time: 7x7 maps in float32 are whole 16-byte
  // words only every four rows.
  int16_t wide, rows;
  int16_t lanes;  // pixels: threads that share the channels of a position, a power of two
};

template <typename T>
struct Options {
  Settings<T> settings;
  T local_weight, components[kTerms];
  bool position_mean;
};

// One layer pair of the sample kernels.
template <typename T>
struct SampleLayer {
  DeviceFeatures side[2];  // fused
  const T* map[2];         // split: [groups, B, N]
  int32_t groups[2];
  T* d_f[2];  // [B, N], or null where no gradient is wanted
  T* loss;    // [B]
  T weight;
  int32_t height, width;
};
template <typename T>
struct SampleArgs {
  SampleLayer<T> layer[kMaxLayers];
  Options<T> options;
  int32_t batch;
  int32_t positions;  // of the largest map: how the shared memory is laid out
};

// One side of one layer pair for the map kernel: f of a block of positions over a group of
// channels.
template <typename T>
struct MapSide {
  DeviceFeatures features;
  T* map;               // [groups, B, N]
  int64_t first_block;  // in the launch
  int32_t positions_per_block, blocks_per_map, channels_per_group, groups;
};
template <typename T>
struct MapArgs {
  MapSide<T> side[2 * kMaxLayers];
  int32_t sides, batch;
  bool root;  // store the square root of f
};

template <typename T>
struct ChunkLayer {
  T* map[2];  // [groups, B, N]; the first pass leaves the sum of the groups in the first
  T* d_f[2];  // [B, N] or null
  T* loss;    // [B]
  T* sums;    // [B, chunks, kSlotsOfAll, 4]
  int64_t first_block;
  T weight;
  int32_t groups[2], height, width, chunks;
};
template <typename T>
struct ChunkArgs {
  ChunkLayer<T> layer[kMaxLayers];
  Options<T> options;
  Pass pass;
  int32_t layers, batch;
};

// One feature of the backward kernel. Its memory is walked in rows of slots: a row is a channel, or
// a pixel where channels are contiguous; a slot is what one thread moves at once.
template <typename T>
struct GradientOf {
  const void* data;  // [B, C, H, W]
  void* gradient;    // the same, strides of its own
  const T* d_f;      // [B, N]
  int64_t stride_b, stride_c, stride_h, stride_w;
  int64_t out_stride_b, out_stride_c, out_stride_h, out_stride_w;
  int64_t first_block;
  int32_t channels, height, width;
  int32_t slots_per_tile, tiles, row_blocks, steps;
  int16_t storage, itemsize, pixels, wide, rows;
};
template <typename T>
struct GradientArgs {
  GradientOf<T> feature[kMaxLayers];
  const T* grad_loss;  // [B]
  int64_t stride_grad_loss;
  int32_t features;
};

// loss[b] = sum over layers of losses[layer][b], or the square root of that
template <typename T>
struct LayerArgs {
  const T* losses;  // [layers, B]
  T* loss;          // [B]
  int32_t layers, batch;
  bool root;
};

constexpr int kMaxArgumentBytes = 4096;
static_assert(sizeof(SampleArgs<double>) <= kMaxArgumentBytes, "a launch takes no more");
static_assert(sizeof(MapArgs<double>) <= kMaxArgumentBytes, "a launch takes no more");
static_assert(sizeof(ChunkArgs<double>) <= kMaxArgumentBytes, "a launch takes no more");
static_assert(sizeof(GradientArgs<double>) <= kMaxArgumentBytes, "a launch takes no more");

}  // namespace amd_fused
