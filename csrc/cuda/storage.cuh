// Elements as they lie in memory: loads of 16 bytes or of one element, and their conversion. And
// what every kernel has of a GPU: shared memory, exp.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "amd_args.h"

#define AMD_ISA cuda
#include "amd_math.h"

namespace amd_fused {
namespace cuda {

// The block's shared memory, as large as its launch asked for.
__device__ __forceinline__ char* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) char memory[];
  return memory;
#else  // tests/cuda_on_host
  return cuda_on_host::shared_memory();
#endif
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

template <typename T>
__device__ __forceinline__ T number(float x) {
  return T(x);
}
template <typename T>
__device__ __forceinline__ T number(double x) {
  return T(x);
}
template <typename T>
__device__ __forceinline__ T number(c10::Half x) {
  return T(static_cast<float>(x));
}
template <typename T>
__device__ __forceinline__ T number(c10::BFloat16 x) {
  return T(static_cast<float>(x));
}

// Calls body(S()) with the type of the elements, the same for all threads of a block. Float64 is
// computed in float64 only.
template <typename T, typename Body>
__device__ __forceinline__ void for_storage(int storage, const Body& body) {
  if (storage == kFloat32)
    body(float());
  else if (storage == kFloat16)
    body(c10::Half());
  else if (storage == kBfloat16)
    body(c10::BFloat16());
  else if constexpr (sizeof(T) == 8)
    body(double());
}

// 16 bytes of elements, kElements of them. Taken apart by shifts: an array of elements would be
// kept in local memory.
template <typename S>
constexpr int kElements = 16 / sizeof(S);

__device__ __forceinline__ uint32_t& word(uint4& bits, int i) {
  return i == 0 ? bits.x : i == 1 ? bits.y : i == 2 ? bits.z : bits.w;
}
template <typename T, typename S>
__device__ __forceinline__ T get(uint4& bits, int k) {
  S element;
  if constexpr (sizeof(S) == 8) {
    const uint64_t both = uint64_t(word(bits, 2 * k + 1)) << 32 | word(bits, 2 * k);
    memcpy(&element, &both, sizeof(S));
  } else if constexpr (sizeof(S) == 4) {
    memcpy(&element, &word(bits, k), sizeof(S));
  } else {
    const uint16_t half = uint16_t(word(bits, k / 2) >> (k % 2 * 16));
    memcpy(&element, &half, sizeof(S));
  }
  return number<T>(element);
}
// In order, k from 0 on: the first of two halves fills its word.
template <typename S>
__device__ __forceinline__ void put(uint4& bits, int k, S element) {
  if constexpr (sizeof(S) == 8) {
    uint64_t both;
    memcpy(&both, &element, sizeof(S));
    word(bits, 2 * k) = uint32_t(both);
    word(bits, 2 * k + 1) = uint32_t(both >> 32);
  } else if constexpr (sizeof(S) == 4) {
    memcpy(&word(bits, k), &element, sizeof(S));
  } else {
    uint16_t half;
    memcpy(&half, &element, sizeof(S));
    word(bits, k / 2) = k % 2 == 0 ? half : word(bits, k / 2) | uint32_t(half) << 16;
  }
}

// Element offset of a position within a channel, for any strides.
template <typename Strides>
__device__ __forceinline__ int64_t position_offset(const Strides& x, int i) {
  return (i / x.width) * x.stride_h + (i % x.width) * x.stride_w;
}

}  // namespace cuda
}  // namespace amd_fused
