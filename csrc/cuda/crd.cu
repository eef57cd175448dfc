// Kernels of the CRD loss by rows: a block takes a stretch of one sample's candidates, a warp a few
// rows at a time, held in registers between score and gradient; then stretches are added up, in
// their order. Rows of more than a piece are read once more, out of a cache.

#include "crd_args.h"
#include "launch.h"
#include "storage.cuh"

namespace amd_fused {
namespace cuda {
namespace {

constexpr int kWarp = 32, kWarps = kCrdThreads / kWarp;
// Rows of a warp under way at once.
template <typename T>
constexpr int kCrdAtOnce = 16 / int(sizeof(T));

// To all lanes, bitwise the same.
template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

template <typename T>
struct CrdShared {
  int64_t* rows;                // [kCrdStretch], -1 where a candidate has none
  T *weights, *slopes, *terms;  // [kCrdStretch], [kWarps, kCrdPiece], [kWarps]

  __device__ __forceinline__ CrdShared()
      : rows(reinterpret_cast<int64_t*>(shared_memory())),
        weights(reinterpret_cast<T*>(rows + kCrdStretch)),
        slopes(weights + kCrdStretch),
        terms(slopes + kWarps * kCrdPiece) {}
};

// Where a block works.
struct CrdPlace {
  int side, first, count;  // candidates of the stretch
  int64_t b, block;
};

// The part of a lane of the piece that begins at a column: kCrdHeld numbers, kE neighbours at once.
template <int kE>
__device__ __forceinline__ int crd_column(int begin, int lane, int i) {
  return begin + (i / kE * kWarp + lane) * kE + i % kE;
}

// A lane's part of a row of S; zeros past its end, and of no row.
template <typename S, int kE, typename T>
__device__ __forceinline__ void crd_load(const CrdRows& from, int64_t row, int begin, int width,
                                         T (&values)[kCrdHeld]) {
  const S* const at = static_cast<const S*>(from.data) + row * from.stride_n;
#pragma unroll
  for (int i = 0; i < kCrdHeld; i += kE) {
    const int column = crd_column<kE>(begin, threadIdx.x % kWarp, i);
    const bool inside = row >= 0 && column < width;
    if constexpr (kE == 1) {
      values[i] = inside ? number<T>(at[column * from.stride_d]) : T(0);
    } else {
      uint4 bits = inside ? __ldg(reinterpret_cast<const uint4*>(at + column)) : uint4{};
#pragma unroll
      for (int k = 0; k < kE; ++k) values[i + k] = get<T, S>(bits, k);
    }
  }
}

// A lane's part of the anchor, its columns those of a row of the bank.
template <int kE, typename T>
__device__ __forceinline__ void crd_anchor(const CrdRows& from, int64_t b, int begin, int width,
                                           T (&values)[kCrdHeld]) {
  for_storage<T>(from.storage, [&](auto zero) {
    using S = decltype(zero);
    const S* const at = static_cast<const S*>(from.data) + b * from.stride_n;
#pragma unroll
    for (int i = 0; i < kCrdHeld; ++i) {
      const int column = crd_column<kE>(begin, threadIdx.x % kWarp, i);
      values[i] = column < width ? number<T>(at[column * from.stride_d]) : T(0);
    }
  });
}

// Adds up the warps' slopes of a piece, and writes them.
template <int kE, typename T>
__device__ __forceinline__ void crd_write(const CrdArgs<T>& args, const CrdPlace& place,
                                          const CrdShared<T>& shared, int begin,
                                          const T (&slope)[kCrdHeld]) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < kCrdHeld; ++i) shared.slopes[warp * kCrdPiece + i * kWarp + lane] = slope[i];
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += shared.slopes[w * kCrdPiece + threadIdx.x];
  const int column = crd_column<kE>(begin, lane, warp);
  const int64_t stretch = place.block % (args.batch * args.stretches);
  if (column < args.width) args.side[place.side].slopes[stretch * args.width + column] = sum;
  __syncthreads();
}

template <typename S, int kE, typename T>
__device__ __forceinline__ void crd_stretch(const CrdArgs<T>& args, const CrdPlace& place,
                                            const CrdShared<T>& shared) {
  constexpr int kAtOnce = kCrdAtOnce<T>;
  const CrdSide<T>& side = args.side[place.side];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = args.width;
  const bool whole = width <= kCrdPiece;
  const T log_h = T(args.log_normalizers[place.side * args.stride_z] + args.shift);
  T anchor[kCrdHeld], slope[kCrdHeld] = {}, term = 0;
  crd_anchor<kE>(side.anchors, place.b, 0, width, anchor);
#pragma unroll 1
  for (int k = warp * kAtOnce; k < place.count; k += kWarps * kAtOnce) {
    T row[kAtOnce][kCrdHeld], score[kAtOnce] = {};
#pragma unroll 1
    for (int begin = 0; begin < width; begin += kCrdPiece) {
      if (!whole) crd_anchor<kE>(side.anchors, place.b, begin, width, anchor);
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r)
        crd_load<S, kE>(side.bank, shared.rows[k + r], begin, width, row[r]);
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r)
#pragma unroll
        for (int i = 0; i < kCrdHeld; ++i) score[r] += row[r][i] * anchor[i];
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const T u = warp_sum(score[r]) * args.inverse_temperature - log_h;
      const bool drawn = k + r < place.count, own = place.first + k + r == 0;
      // softplus(v) is -log sigmoid(-v).
      const T v = own ? -u : u;
      const LogSigmoid<T> log = log_sigmoid<T>(-v, exponential(v > 0 ? -v : v));
      // A row that is not there is heard; so is Inf, by u - u.
      const T value = shared.rows[k + r] < 0 ? T(NAN) : (u - u) - log.value;
      term += drawn ? value : T(0);
      const T weight = drawn ? (own ? -log.slope : log.slope) : T(0);
      if (whole) {
#pragma unroll
        for (int i = 0; i < kCrdHeld; ++i) slope[i] += weight * row[r][i];
      } else if (lane == 0) {
        shared.weights[k + r] = weight;
      }
    }
  }
  if (lane == 0) shared.terms[warp] = term;
  __syncthreads();
  if (threadIdx.x == 0) {
    T sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared.terms[w];
    args.terms[place.block] = sum;
  }
  if (!side.slopes) return;
  if (whole) {
    crd_write<kE>(args, place, shared, 0, slope);
    return;
  }
#pragma unroll 1
  for (int begin = 0; begin < width; begin += kCrdPiece) {
    T sum[kCrdHeld] = {}, row[kCrdHeld];
#pragma unroll 2
    for (int k = warp; k < place.count; k += kWarps) {
      crd_load<S, kE>(side.bank, shared.rows[k], begin, width, row);
#pragma unroll
      for (int i = 0; i < kCrdHeld; ++i) sum[i] += shared.weights[k] * row[i];
    }
    crd_write<kE>(args, place, shared, begin, sum);
  }
}

template <typename T>
__global__ void __launch_bounds__(kCrdThreads, sizeof(T) == 8 ? 1 : 2)
    crd_fwd_kernel(const __grid_constant__ CrdArgs<T> args) {
  const CrdShared<T> shared;
  const int64_t sample = blockIdx.x / args.stretches;
  const int first = blockIdx.x % args.stretches * kCrdStretch;
  const CrdPlace place{int(sample / args.batch), first, min(kCrdStretch, args.candidates - first),
                       sample % args.batch, blockIdx.x};
  int64_t row = -1;
  if (int(threadIdx.x) < place.count) {
    const int64_t at = place.b * args.stride_b + (first + threadIdx.x) * args.stride_k;
    row = args.long_samples ? static_cast<const int64_t*>(args.samples)[at]
                            : static_cast<const int32_t*>(args.samples)[at];
  }
  shared.rows[threadIdx.x] = row < args.rows ? row : -1;
  __syncthreads();
  const CrdRows& bank = args.side[place.side].bank;
  for_storage<T>(bank.storage, [&](auto zero) {
    using S = decltype(zero);
    if (bank.wide)
      crd_stretch<S, kElements<S>>(args, place, shared);
    else
      crd_stretch<S, 1>(args, place, shared);
  });
}

// The first block: the loss. The others: a thread for each number of the gradients.
template <typename T>
__global__ void __launch_bounds__(kCrdThreads)
    crd_sums_kernel(const __grid_constant__ CrdArgs<T> args) {
  if (blockIdx.x == 0) {
    double* const shared = reinterpret_cast<double*>(shared_memory());
    double sum = 0;
    for (int64_t i = threadIdx.x; i < 2 * args.batch * args.stretches; i += kCrdThreads)
      sum += args.terms[i];
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[w];
    *args.loss = T(sum / double(args.batch) + args.constant);
    return;
  }
  const int64_t each = args.batch * args.width;
  int64_t at = int64_t(blockIdx.x - 1) * kCrdThreads + threadIdx.x;
  // Where one side alone has a gradient, its numbers are the first.
  int side = args.side[0].gradient ? 0 : 1;
  if (side == 0 && at >= each) {
    side = 1;
    at -= each;
  }
  if (!args.side[side].gradient || at >= each) return;
  const T* const slopes =
      args.side[side].slopes + at / args.width * args.stretches * args.width + at % args.width;
  double sum = 0;
#pragma unroll 4
  for (int64_t stretch = 0; stretch < args.stretches; ++stretch)
    sum += slopes[stretch * args.width];
  args.side[side].gradient[at] = T(sum * args.scale);
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_crd_forward(const Grid& grid, const CrdArgs<T>& args) {
  launch("crd_fwd_kernel", cuda::crd_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_crd_sums(const Grid& grid, const CrdArgs<T>& args) {
  launch("crd_sums_kernel", cuda::crd_sums_kernel<T>, grid, args);
}

template void launch_crd_forward(const Grid&, const CrdArgs<float>&);
template void launch_crd_forward(const Grid&, const CrdArgs<double>&);
template void launch_crd_sums(const Grid&, const CrdArgs<float>&);
template void launch_crd_sums(const Grid&, const CrdArgs<double>&);

}  // namespace amd_fused
