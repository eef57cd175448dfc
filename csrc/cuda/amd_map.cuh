// Eq. 4: the attention map f_i = sum_c A_ci^2 of some positions of one sample, by one block.
#pragma once

#include "storage.cuh"

namespace amd_fused {
namespace cuda {

// Loads under way at once, a thread: with the threads that fit, enough to cover the way to memory.
constexpr int kLoads = 4, kScalarLoads = 4;

// Positions [begin, end) and channels [first, last) of sample b.
struct Part {
  int64_t b;
  int begin, end, first, last;

  __device__ __forceinline__ const char* data(const DeviceFeatures& x) const {
    const int64_t offset = b * x.stride_b + first * x.stride_c;
    return static_cast<const char*>(x.data) + offset * x.itemsize;
  }
};

// total[k] += a[k]^2 over rows first, first + step, ... < last of 16 bytes each, `stride` bytes
// apart.
template <typename T>
__device__ __forceinline__ void add_rows(int storage, const char* a, int64_t stride, int first,
                                         int step, int last, T (&total)[kMaxPacket]) {
#pragma unroll 1
  for (int row = first; row < last; row += kLoads * step) {
    // Through the read-only cache: nothing writes features while a kernel runs.
    uint4 bits[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j) {
      const int at = row + j * step;
      bits[j] = at < last ? __ldg(reinterpret_cast<const uint4*>(a + at * stride)) : uint4{};
    }
    for_storage<T>(storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll
      for (int j = 0; j < kLoads; ++j)
#pragma unroll
        for (int k = 0; k < kElements<S>; ++k) {
          const T value = get<T, S>(bits[j], k);
          total[k] += value * value;
        }
    });
  }
}

// The same of one element a row.
template <typename T>
__device__ __forceinline__ void add_elements(int storage, const char* a, int64_t stride, int first,
                                             int step, int last, T* total) {
  for_storage<T>(storage, [&](auto zero) {
    using S = decltype(zero);
#pragma unroll 1
    for (int row = first; row < last; row += kScalarLoads * step) {
      S elements[kScalarLoads];
#pragma unroll
      for (int j = 0; j < kScalarLoads; ++j) {
        const int at = row + j * step;
        elements[j] = at < last ? *reinterpret_cast<const S*>(a + at * stride) : S(0.0f);
      }
#pragma unroll
      for (int j = 0; j < kScalarLoads; ++j) {
        const T value = number<T>(elements[j]);
        *total += value * value;
      }
    }
  });
}

// Rows: every thread keeps to the positions of one slot of 16 bytes, so that nothing but squares is
// added up while memory is read. Where a row is no whole number of slots, x.rows rows are taken as
// one. Other strides take the same way an element at a time. store(i, f) is called once a position.
template <typename T, typename Store>
__device__ __forceinline__ void map_rows(const DeviceFeatures& x, const Part& part, T* scratch,
                                         const Store& store) {
  const char* a = part.data(x);
  const int thread = threadIdx.x, threads = blockDim.x;
  const int elements = x.wide ? 16 / x.itemsize : 1, rows = x.wide ? x.rows : 1;
  const int positions = part.end - part.begin, slots = rows * positions / elements;
  const int channels = part.last - part.first, full = channels / rows;
  const int tiles = (slots + threads - 1) / threads, per_tile = (slots + tiles - 1) / tiles;
  const int groups = threads / per_tile, group = thread / per_tile, slot = thread % per_tile;
  const int64_t stride = x.stride_c * x.itemsize;
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const int begin = part.begin + tile * per_tile * elements, at = begin + slot * elements;
    const bool active = group < groups && tile * per_tile + slot < slots;
    T total[kMaxPacket] = {};
    if (active && x.wide)
      add_rows(x.storage, a + int64_t(at) * x.itemsize, rows * stride, group, groups, full, total);
    else if (active)
      add_elements(x.storage, a + position_offset(x, at) * x.itemsize, stride, group, groups, full,
                   &total[0]);
    if (groups == 1 && rows == 1) {
#pragma unroll
      for (int k = 0; k < kMaxPacket; ++k)
        if (active && k < elements) store(at + k, total[k]);
      continue;
    }
#pragma unroll
    for (int k = 0; k < kMaxPacket; ++k)
      if (active && k < elements) scratch[thread * elements + k] = total[k];
    __syncthreads();
    const int end = begin + per_tile * elements < part.end && rows == 1
                        ? begin + per_tile * elements
                        : part.end;
#pragma unroll 1
    for (int i = begin + thread; i < end; i += threads) {
      const T* partial = scratch + (i - begin);
      T f = 0;
#pragma unroll 1
      for (int r = 0; r < rows; ++r)
#pragma unroll 4
        for (int j = 0; j < groups; ++j) f += partial[j * per_tile * elements + r * positions];
      // Rows that make no whole slot any more.
      add_elements(x.storage, a + position_offset(x, i) * x.itemsize, stride, full * rows, 1,
                   channels, &f);
      store(i, f);
    }
    __syncthreads();
  }
}

// Pixels: x.lanes neighbouring threads share the channels of a position, several positions at once.
template <typename T, typename Store>
__device__ __forceinline__ void map_pixels(const DeviceFeatures& x, const Part& part,
                                           const Store& store) {
  const int lane = threadIdx.x & (x.lanes - 1), sub = threadIdx.x / x.lanes;
  const int subs = blockDim.x / x.lanes;
  const int elements = x.wide ? 16 / x.itemsize : 1, channels = part.last - part.first;
  const int full = x.wide ? channels / elements * elements : 0;
  const int64_t pixel = (x.width > 1 ? x.stride_w : x.stride_h) * x.itemsize;
  // Every thread of a warp goes round as often: all take part in the sums.
#pragma unroll 1
  for (int base = part.begin; base < part.end; base += subs * kLoads) {
    const char* a = part.data(x) + (base + sub) * pixel;
    const int left = part.end - base - sub;  // positions j * subs below this are there
    T total[kLoads] = {};
#pragma unroll 1
    for (int c = lane * elements; c < full; c += x.lanes * elements) {
      uint4 bits[kLoads];
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const char* p = a + j * subs * pixel + c * x.itemsize;
        bits[j] = j * subs < left ? __ldg(reinterpret_cast<const uint4*>(p)) : uint4{};
      }
      for_storage<T>(x.storage, [&](auto zero) {
        using S = decltype(zero);
#pragma unroll
        for (int j = 0; j < kLoads; ++j)
#pragma unroll
          for (int k = 0; k < kElements<S>; ++k) {
            const T value = get<T, S>(bits[j], k);
            total[j] += value * value;
          }
      });
    }
    // Channels that make no whole slot.
    for_storage<T>(x.storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll 1
      for (int c = full + lane; c < channels; c += x.lanes) {
        S element[kLoads];
#pragma unroll
        for (int j = 0; j < kLoads; ++j)
          element[j] =
              j * subs < left ? reinterpret_cast<const S*>(a + j * subs * pixel)[c] : S(0.0f);
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
          const T value = number<T>(element[j]);
          total[j] += value * value;
        }
      }
    });
#pragma unroll 1
    for (int distance = x.lanes / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int j = 0; j < kLoads; ++j) total[j] += __shfl_xor_sync(0xffffffffu, total[j], distance);
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      if (lane == 0 && j * subs < left) store(base + sub + j * subs, total[j]);
  }
}

// scratch: kMaxPacket elements of shared memory a thread. What store wrote is seen by all threads
// after the next barrier.
template <typename T, typename Store>
__device__ __forceinline__ void attention_map(const DeviceFeatures& x, const Part& part, T* scratch,
                                              const Store& store) {
  if (x.layout == kPixels)
    map_pixels<T>(x, part, store);
  else
    map_rows<T>(x, part, scratch, store);
}

}  // namespace cuda
}  // namespace amd_fused
