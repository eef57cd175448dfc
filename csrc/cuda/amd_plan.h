// Which form of the forward kernels each layer takes, and how every launch is cut: fixed rules from
// shapes, strides and the device's limits alone; nothing is timed.
//
// fused    maps and samples in one kernel, one block a (layer, sample): the map fits in a block's
//          shared memory (<= 4096 positions, each quadrant padded to a power of two), and either
//          the call has two such blocks a multiprocessor, or a block reads no more than 128 KiB.
// split    maps first, by blocks of positions and groups of channels, then one block a (layer,
//          sample): the map fits, but its features are better read by more blocks.
// chunked  maps first, then short passes over chunks of positions: maps of any larger size, or
//          larger than the device's shared memory. In float64 from half that size on.
//
// The rules of amd_fused/losses/amd/triton/plan.py, but for its lower limits of the fused form:
// Triton holds maps in registers, and tiles of channels_last features beside them. Here two blocks
// of the largest map share a multiprocessor whatever the layout.
#pragma once

#include <algorithm>
#include <numeric>

#include "kernels.h"

namespace amd_fused {

constexpr int64_t kMaxPositions = 4096, kSmallBytes = 128 << 10;
constexpr int64_t kMapPositions = 512, kMapElements = 4096;  // of a block of the map kernel
constexpr int kMaxGroups = 16;
constexpr int kLanesOfWarp = 32;

enum Form { kFused, kSplit, kChunked };

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t next_power_of_2(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}
inline int64_t itemsize_of(Storage storage) {
  return storage == kFloat64 ? 8 : storage == kFloat32 ? 4 : 2;
}

// Positions of the largest quadrant.
inline int64_t largest_quadrant(const Features& x) {
  return (x.height - x.height / 2) * (x.width - x.width / 2);
}

// Threads of a block that holds maps of so many positions.
inline int sample_threads(int64_t positions) {
  return positions <= 512 ? 128 : positions <= 1024 ? 256 : kMaxSampleThreads;
}

// shared_bytes: what a block that holds the sample would need, and what it may have.
inline Form form_of(const Features& student, const Features& teacher, int64_t layers, int64_t batch,
                    const DeviceLimits& limits, int64_t shared_bytes, bool is_double) {
  const int64_t padded =
      kMaxQuadrants * std::max<int64_t>(4, next_power_of_2(largest_quadrant(student)));
  if (padded > kMaxPositions / (is_double ? 2 : 1) || shared_bytes > limits.shared_bytes)
    return kChunked;
  const bool many = batch * layers >= 2 * limits.multiprocessors;
  auto bytes = [](const Features& x) {
    return x.channels * x.positions() * itemsize_of(x.storage);
  };
  const bool small = bytes(student) + bytes(teacher) <= kSmallBytes;
  return many || small ? kFused : kSplit;
}

// Whether 16-byte accesses of this feature are aligned wherever a run of `period` elements begins,
// `stride` apart.
inline bool aligned(const Features& x, int64_t stride, int64_t elements) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride_b % elements == 0 &&
         stride % elements == 0;
}

// Channels of NCHW features that make whole 16-byte slots: 1 if every row does; more where rows
// follow each other without a gap, up to most_slots slots together; 0 if none do.
inline int rows_per_slot(const Features& x, int64_t most_slots) {
  const int64_t elements = 16 / itemsize_of(x.storage), positions = x.positions();
  if (x.layout != kRows) return 0;
  if (positions % elements == 0)
    return aligned(x, x.channels > 1 ? x.stride_c : elements, elements) ? 1 : 0;
  const int64_t rows = elements / std::gcd(positions, elements);
  const bool gapless = x.channels > 1 && x.stride_c == positions;
  const bool fits = rows <= x.channels && rows * positions / elements <= most_slots;
  return gapless && fits && aligned(x, elements, elements) ? int(rows) : 0;
}

inline bool wide_pixels(const Features& x) {
  const int64_t elements = 16 / itemsize_of(x.storage);
  return x.layout == kPixels && x.channels >= elements &&
         aligned(x, x.positions() > 1 ? x.pixel_stride() : elements, elements);
}

// channels: of those that one block reads; threads: of the block.
inline DeviceFeatures device_features(const Features& x, int64_t channels, int threads) {
  const int rows = rows_per_slot(x, threads);
  const bool wide = rows > 0 || wide_pixels(x);
  const int64_t itemsize = itemsize_of(x.storage);
  const int64_t slots = wide ? channels / (16 / itemsize) : channels;
  return {x.data,
          x.stride_b,
          x.stride_c,
          x.stride_h,
          x.stride_w,
          int32_t(x.channels),
          int32_t(x.height),
          int32_t(x.width),
          int16_t(x.storage),
          int16_t(itemsize),
          int16_t(x.layout),
          int16_t(wide),
          int16_t(std::max(rows, 1)),
          int16_t(std::min<int64_t>(kLanesOfWarp, next_power_of_2(std::max<int64_t>(1, slots))))};
}

// Blocks of the map kernel for one side.
struct MapPlan {
  int64_t positions, blocks_per_map, groups, channels_per_group;
};
inline MapPlan map_plan(const Features& x, int64_t batch, const DeviceLimits& limits) {
  MapPlan plan;
  const int64_t channels = next_power_of_2(x.channels);
  const int64_t at_once =
      x.layout == kPixels ? std::min<int64_t>(channels, 64) : kMapElements / kMapPositions;
  plan.positions = x.layout == kPixels ? kMapElements / at_once : kMapPositions;
  // Several rows are one only where a block has all positions.
  if (rows_per_slot(x, kMapThreads) > 1) plan.positions = x.positions();
  plan.blocks_per_map = ceil_div(x.positions(), plan.positions);
  // Channel groups where positions and samples alone would leave multiprocessors idle.
  const int64_t blocks = batch * plan.blocks_per_map;
  plan.groups = 1;
  while (plan.groups < kMaxGroups && blocks * plan.groups < 2 * limits.multiprocessors &&
         x.channels / (2 * plan.groups) >= 2 * at_once)
    plan.groups *= 2;
  // Groups begin at whole slots, of rows or of pixels.
  plan.channels_per_group = ceil_div(ceil_div(x.channels, plan.groups), kMaxPacket) * kMaxPacket;
  return plan;
}

// first_block: in the launch.
template <typename T>
MapSide<T> map_side(const Features& x, const MapPlan& plan, T* map, int64_t first_block) {
  return {device_features(x, plan.channels_per_group, kMapThreads),
          map,
          first_block,
          int32_t(plan.positions),
          int32_t(plan.blocks_per_map),
          int32_t(plan.channels_per_group),
          int32_t(plan.groups)};
}
template <typename T>
constexpr int map_shared_bytes() {
  return kMapThreads * kMaxPacket * int(sizeof(T));
}

// How the backward kernel walks one feature.
struct GradientPlan {
  bool pixels, wide;
  int rows;
  int64_t slots_per_tile, tiles, row_blocks, steps;
  int64_t blocks(int64_t batch) const { return batch * tiles * row_blocks; }
};
inline GradientPlan gradient_plan(const Features& in, const Features& out, int64_t batch,
                                  const DeviceLimits& limits) {
  GradientPlan plan{};
  const int64_t elements = 16 / itemsize_of(in.storage), no_limit = INT32_MAX;
  const int rows_in = rows_per_slot(in, no_limit), rows_out = rows_per_slot(out, no_limit);
  plan.pixels = out.layout == kPixels;
  plan.wide =
      plan.pixels ? wide_pixels(in) && wide_pixels(out) : rows_in > 0 && rows_in == rows_out;
  plan.rows = plan.wide && !plan.pixels ? rows_in : 1;
  const int64_t per_slot = plan.wide ? elements : 1;
  const int64_t slots = (plan.pixels ? in.channels : plan.rows * in.positions()) / per_slot;
  const int64_t rows = plan.pixels ? in.positions() : in.channels / plan.rows;
  // The tiles of slots that leave the fewest threads idle, none shorter than a warp.
  int64_t best = 0;
  for (int64_t tiles = ceil_div(slots, kGradientThreads);
       tiles == ceil_div(slots, kGradientThreads) || (slots / tiles >= kLanesOfWarp && tiles <= 64);
       ++tiles) {
    const int64_t per_tile = ceil_div(slots, tiles);
    const int64_t busy = kGradientThreads / per_tile * slots * 64 / tiles;
    if (busy <= best) continue;
    best = busy;
    plan.slots_per_tile = per_tile;
    plan.tiles = tiles;
  }
  // More rows a thread, which share the factors, where there are blocks enough.
  const int64_t groups = kGradientThreads / plan.slots_per_tile;
  for (plan.steps = 1;; plan.steps *= 2) {
    plan.row_blocks = ceil_div(rows, groups * kRowsAtOnce * plan.steps);
    if (plan.steps == 4 || plan.blocks(batch) < 16 * limits.multiprocessors) return plan;
  }
}

}  // namespace amd_fused
