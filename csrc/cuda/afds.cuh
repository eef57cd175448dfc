// The AFDS loss: where each thread of a block works, and what it reads there.
#pragma once

#include "afds_args.h"
#include "storage.cuh"

namespace amd_fused {
namespace cuda {

// One thread's part: of rows some positions of one channel, of pixels one slot of channels at some
// positions. Slots first, first + step, ... < count.
struct AfdsPlace {
  int64_t b;
  int c, first, step, count;
  bool active;
};

template <typename T>
__device__ __forceinline__ int afds_elements(const AfdsArgs<T>& args) {
  return args.wide ? 16 / args.side[0].itemsize : 1;
}

template <typename T>
__device__ __forceinline__ AfdsPlace afds_place(const AfdsArgs<T>& args) {
  const int positions = args.height * args.width, elements = afds_elements(args);
  const int teams = kAfdsThreads / args.team, team = threadIdx.x / args.team;
  const int member = threadIdx.x % args.team;
  if (args.pixels) {
    const int slots = args.channels / elements, tiles = (slots + args.team - 1) / args.team;
    const int slot = blockIdx.x % tiles * args.team + member;
    const bool active = team < teams && slot < slots;
    return {blockIdx.x / tiles, slot * elements, team, teams, active ? positions : 0, active};
  }
  const int64_t channel = int64_t(blockIdx.x) * teams + team;
  const bool active = channel < int64_t(args.batch) * args.channels;
  return {channel / args.channels,
          int(channel % args.channels),
          member,
          args.team,
          active ? positions / elements : 0,
          active};
}

__device__ __forceinline__ char* afds_begin(const AfdsMap& map, const AfdsPlace& place) {
  const int64_t offset = place.b * map.stride_b + place.c * map.stride_c;
  return static_cast<char*>(map.data) + offset * map.itemsize;
}

// Bytes from one slot to the next.
template <typename T>
__device__ __forceinline__ int64_t afds_stride(const AfdsArgs<T>& args, const AfdsMap& map) {
  return args.pixels ? (args.width > 1 ? map.stride_w : map.stride_h) * map.itemsize : 16;
}

// Elements from a channel's first position to another.
template <typename T>
__device__ __forceinline__ int64_t afds_offset(const AfdsArgs<T>& args, const AfdsMap& map, int i) {
  return i / args.width * map.stride_h + i % args.width * map.stride_w;
}

// Calls body(S()) with the type of wide elements.
template <typename T, typename Body>
__device__ __forceinline__ void for_wide_storage(int storage, const Body& body) {
  if constexpr (sizeof(T) == 8)
    body(double());
  else
    for_storage<T>(storage, body);
}

template <typename T>
__device__ __forceinline__ T afds_element(const AfdsMap& map, const char* begin, int64_t offset) {
  T value = 0;
  for_storage<T>(map.storage, [&](auto zero) {
    value = number<T>(reinterpret_cast<const decltype(zero)*>(begin)[offset]);
  });
  return value;
}

// Runs f(k, student's, teacher's) over the elements of a thread's slots, k within the slot. Past
// the last slot it may meet zeros.
template <typename T, typename F>
__device__ __forceinline__ void afds_visit(const AfdsArgs<T>& args, const AfdsPlace& place,
                                           const F& f) {
  const AfdsMap &s = args.side[0], &t = args.side[1];
  const char* from_s = afds_begin(s, place);
  const char* from_t = afds_begin(t, place);
  if (!args.wide) {
#pragma unroll 4
    for (int i = place.first; i < place.count; i += place.step)
      f(0, afds_element<T>(s, from_s, afds_offset(args, s, i)),
        afds_element<T>(t, from_t, afds_offset(args, t, i)));
    return;
  }
  const int64_t stride_s = afds_stride(args, s), stride_t = afds_stride(args, t);
#pragma unroll 1
  for (int slot = place.first; slot < place.count; slot += kAfdsLoads * place.step) {
    uint4 bits_s[kAfdsLoads], bits_t[kAfdsLoads];
#pragma unroll
    for (int j = 0; j < kAfdsLoads; ++j) {
      const int at = slot + j * place.step;
      const bool inside = at < place.count;
      bits_s[j] = inside ? __ldg(reinterpret_cast<const uint4*>(from_s + at * stride_s)) : uint4{};
      bits_t[j] = inside ? __ldg(reinterpret_cast<const uint4*>(from_t + at * stride_t)) : uint4{};
    }
    for_wide_storage<T>(s.storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll
      for (int j = 0; j < kAfdsLoads; ++j)
#pragma unroll
        for (int k = 0; k < kElements<S>; ++k)
          f(k, get<T, S>(bits_s[j], k), get<T, S>(bits_t[j], k));
    });
  }
}

}  // namespace cuda
}  // namespace amd_fused
