// Kernels of the AFDS loss, and of VID's: forward a block goes through its channels twice, for
// their norms and for the distance of what they make of them, the second time out of a cache;
// backward once.

#include "afds.cuh"
#include "launch.h"

namespace amd_fused {
namespace cuda {
namespace {

constexpr int kWarp = 32;

// Sums of a channel over all threads that have a part of it, in a fixed order and to all of them.
// Of rows every value becomes the one sum.
template <typename T>
__device__ __forceinline__ void add_up(const AfdsArgs<T>& args, T (&values)[kAfdsPacket<T>]) {
  T* shared = reinterpret_cast<T*>(shared_memory());
  if (args.pixels) {
#pragma unroll
    for (int k = 0; k < kAfdsPacket<T>; ++k) shared[k * kAfdsThreads + threadIdx.x] = values[k];
    __syncthreads();
    const int teams = kAfdsThreads / args.team, member = threadIdx.x % args.team;
#pragma unroll
    for (int k = 0; k < kAfdsPacket<T>; ++k) {
      values[k] = 0;
#pragma unroll 4
      for (int team = 0; team < teams; ++team)
        values[k] += shared[k * kAfdsThreads + team * args.team + member];
    }
    __syncthreads();
    return;
  }
  T sum = 0;
#pragma unroll
  for (int k = 0; k < kAfdsPacket<T>; ++k) sum += values[k];
#pragma unroll 1
  for (int distance = min(args.team, kWarp) / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (args.team > kWarp) {
    const int warps = args.team / kWarp, first = threadIdx.x / args.team * warps;
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll 1
    for (int w = 0; w < warps; ++w) sum += shared[first + w];
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < kAfdsPacket<T>; ++k) values[k] = sum;
}

// Of a sum of squares; Inf becomes NaN, which is heard.
template <typename T>
__device__ __forceinline__ T channel_norm(T square_sum) {
  const T norm = square_root(square_sum);
  return norm == T(INFINITY) ? norm - norm : norm;
}

// x / (norm + eps); 0 for a norm of 0: a channel of zeros has no direction.
template <typename T>
__device__ __forceinline__ T over(T x, T norm, T eps) {
  return norm == 0 ? T(0) : x / (norm + eps);
}

template <typename T>
__global__ void __launch_bounds__(kAfdsThreads, 2)
    afds_fwd_kernel(const __grid_constant__ AfdsArgs<T> args) {
  const AfdsPlace place = afds_place(args);
  // Norms, which count as 0 where channels are compared as they are; then the sums of the distance.
  T norm_s[kAfdsPacket<T>] = {}, norm_t[kAfdsPacket<T>] = {};
  T inverse_s[kAfdsPacket<T>], inverse_t[kAfdsPacket<T>];
  if (args.normalises) {
    afds_visit(args, place, [&](int k, T x, T y) {
      norm_s[k] += x * x;
      norm_t[k] += y * y;
    });
    add_up(args, norm_s);
    add_up(args, norm_t);
  }
#pragma unroll
  for (int k = 0; k < kAfdsPacket<T>; ++k) {
    norm_s[k] = channel_norm(norm_s[k]);
    norm_t[k] = channel_norm(norm_t[k]);
    inverse_s[k] = args.normalises ? over(T(1), norm_s[k], args.eps) : T(1);
    inverse_t[k] = args.normalises ? over(T(1), norm_t[k], args.eps) : T(1);
  }
  T squares[kAfdsPacket<T>] = {}, own[kAfdsPacket<T>] = {};
  afds_visit(args, place, [&](int k, T s, T t) {
    const T x = s * inverse_s[k], difference = x - t * inverse_t[k];
    squares[k] += difference * difference;
    own[k] += difference * x;
  });
  add_up(args, squares);
  add_up(args, own);
  if (!place.active || (args.pixels ? place.first : threadIdx.x % args.team) != 0) return;
  const int written = args.pixels ? afds_elements(args) : 1;
#pragma unroll
  for (int k = 0; k < kAfdsPacket<T>; ++k) {
    if (k >= written) break;
    const int64_t at = place.b * args.channels + place.c + k;
    T* numbers = args.numbers + 4 * at;
    args.distance[at] = squares[k] / T(args.height * args.width);
    numbers[0] = inverse_s[k];
    numbers[1] = inverse_t[k];
    numbers[2] = over(own[k], norm_s[k], T(0));
    // derived: (y - x).y = |x - y|^2 - (x - y).x.
    numbers[3] = over(squares[k] - own[k], norm_t[k], T(0));
  }
}

// What the gradients of one channel are made of.
template <typename T>
struct Factors {
  T inverse_s, inverse_t, scale_s, scale_t, own_s, own_t;

  __device__ __forceinline__ T gradient(int side, T s, T t) const {
    const T x = s * inverse_s, y = t * inverse_t;
    return side == 0 ? (x - y) * scale_s - x * own_s : (y - x) * scale_t - y * own_t;
  }
};

template <typename T>
__device__ __forceinline__ Factors<T> factors_of(const AfdsArgs<T>& args, int64_t b, int c) {
  const T* numbers = args.numbers + 4 * (b * args.channels + c);
  // derived: of mean (x - y)^2 over positions, x = s / (norm + eps).
  const T scale = T(2) / T(args.height * args.width) *
                  args.grad_distance[b * args.stride_grad_b + c * args.stride_grad_c];
  return {numbers[0],         numbers[1],         scale * numbers[0],
          scale * numbers[1], scale * numbers[2], scale * numbers[3]};
}

template <typename T>
__global__ void __launch_bounds__(kAfdsThreads, 2)
    afds_bwd_kernel(const __grid_constant__ AfdsArgs<T> args) {
  const AfdsPlace place = afds_place(args);
  if (!place.active) return;
  const AfdsMap &s = args.side[0], &t = args.side[1];
  const char* from_s = afds_begin(s, place);
  const char* from_t = afds_begin(t, place);
  if (!args.wide) {
    const Factors<T> factors = factors_of(args, place.b, place.c);
#pragma unroll 4
    for (int i = place.first; i < place.count; i += place.step) {
      const T x = afds_element<T>(s, from_s, afds_offset(args, s, i));
      const T y = afds_element<T>(t, from_t, afds_offset(args, t, i));
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const AfdsMap& to = args.gradient[side];
        if (!to.data) continue;
        for_storage<T>(to.storage, [&](auto zero) {
          using S = decltype(zero);
          S* const out = reinterpret_cast<S*>(afds_begin(to, place));
          out[afds_offset(args, to, i)] = S(factors.gradient(side, x, y));
        });
      }
    }
    return;
  }
  Factors<T> factors[kAfdsPacket<T>];
#pragma unroll
  for (int k = 0; k < kAfdsPacket<T>; ++k)
    factors[k] =
        factors_of(args, place.b, place.c + (args.pixels && k < afds_elements(args) ? k : 0));
  const int64_t stride_s = afds_stride(args, s), stride_t = afds_stride(args, t);
#pragma unroll 2
  for (int slot = place.first; slot < place.count; slot += place.step) {
    // Evict first: read for the last time here.
    uint4 bits_s = __ldcs(reinterpret_cast<const uint4*>(from_s + slot * stride_s));
    uint4 bits_t = __ldcs(reinterpret_cast<const uint4*>(from_t + slot * stride_t));
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const AfdsMap& to = args.gradient[side];
      if (!to.data) continue;
      uint4 bits;
      for_wide_storage<T>(s.storage, [&](auto zero) {
        using S = decltype(zero);
#pragma unroll
        for (int k = 0; k < kElements<S>; ++k)
          put(bits, k, S(factors[k].gradient(side, get<T, S>(bits_s, k), get<T, S>(bits_t, k))));
      });
      char* const out = afds_begin(to, place) + slot * afds_stride(args, to);
      __stwb(reinterpret_cast<uint4*>(out), bits);
    }
  }
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_afds_forward(const Grid& grid, const AfdsArgs<T>& args) {
  launch("afds_fwd_kernel", cuda::afds_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_afds_backward(const Grid& grid, const AfdsArgs<T>& args) {
  launch("afds_bwd_kernel", cuda::afds_bwd_kernel<T>, grid, args);
}

template void launch_afds_forward(const Grid&, const AfdsArgs<float>&);
template void launch_afds_forward(const Grid&, const AfdsArgs<double>&);
template void launch_afds_backward(const Grid&, const AfdsArgs<float>&);
template void launch_afds_backward(const Grid&, const AfdsArgs<double>&);

}  // namespace amd_fused
