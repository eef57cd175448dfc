// Kernels of AFD. Forward, a thread keeps to its columns, whose sums stay with it, and a team adds
// up each row's. Both are sums of a tile of columns and a group of rows: of several, another kernel
// adds the parts up in their order. Backward, every element once.

#include "afd_args.h"
#include "launch.h"
#include "storage.cuh"

namespace amd_fused {
namespace cuda {
namespace {

// One thread's part: a slot of columns, of rows first, first + step, ... < end.
struct AfdPlace {
  int64_t b;
  int group, tile, member, column, begin, first, step, end;
  bool active;
};

__device__ __forceinline__ AfdPlace afd_place(const AfdCut& cut) {
  const int unit = int(blockIdx.x), group = unit % cut.groups;
  const int tile = unit / cut.groups % cut.tiles, member = threadIdx.x % cut.team;
  const int column = (tile * cut.team + member) * (cut.wide ? 16 / cut.itemsize : 1);
  const int begin = group * cut.rows_per_group, first = begin + threadIdx.x / cut.team;
  return {unit / cut.groups / cut.tiles,
          group,
          tile,
          member,
          column,
          begin,
          first,
          kAfdThreads / cut.team,
          min(cut.rows, begin + cut.rows_per_group),
          column < cut.columns};
}

// Where a thread's slot of row 0 lies.
__device__ __forceinline__ char* afd_begin(const AfdCut& cut, const AfdMatrix& x,
                                           const AfdPlace& place) {
  const int64_t column =
      place.column / x.inner * x.stride_outer + place.column % x.inner * x.stride_inner;
  return static_cast<char*>(x.data) + (place.b * x.stride_b + column) * cut.itemsize;
}

// A thread's slots of rows first, first + step, ... < end, and zeros for those past it. A slot of
// one element is the first of 16 bytes.
template <bool kWide, typename T>
__device__ __forceinline__ void afd_load(int storage, const char* a, int64_t stride, int first,
                                         int step, int end, uint4 (&bits)[kAfdLoads]) {
  const auto load = [&](auto put_into) {
#pragma unroll
    for (int j = 0; j < kAfdLoads; ++j) {
      const int row = first + j * step;
      bits[j] = uint4{};
      if (row < end) put_into(bits[j], a + row * stride);
    }
  };
  if constexpr (kWide)
    load([](uint4& to, const char* p) { to = __ldg(reinterpret_cast<const uint4*>(p)); });
  else
    for_storage<T>(storage, [&](auto zero) {
      using S = decltype(zero);
      load([](uint4& to, const char* p) { put(to, 0, *reinterpret_cast<const S*>(p)); });
    });
}

template <bool kPixels, bool kWide, typename T>
__device__ __forceinline__ void add_up(const AfdForwardArgs<T>& args) {
  const AfdCut& cut = args.cut;
  const AfdPlace place = afd_place(cut);
  const char* a = afd_begin(cut, args.features, place);
  const int64_t stride = args.features.stride_row * cut.itemsize;
  T* const of_rows = args.of_rows + (int64_t(place.tile) * cut.batch + place.b) * cut.rows;
  T kept[kMaxPacket] = {};
  // Every thread of a warp goes round as often: all take part in the sums.
#pragma unroll 1
  for (int base = 0; place.begin + base < place.end; base += kAfdLoads * place.step) {
    uint4 bits[kAfdLoads];
    T sums[kAfdLoads] = {};
    afd_load<kWide, T>(cut.storage, a, stride, place.first + base, place.step,
                       place.active ? place.end : 0, bits);
    for_storage<T>(cut.storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll
      for (int j = 0; j < kAfdLoads; ++j)
#pragma unroll
        for (int k = 0; k < (kWide ? kElements<S> : 1); ++k) {
          const T value = get<T, S>(bits[j], k), square = value * value;
          kept[k] += kPixels ? value : square;
          sums[j] += kPixels ? square : value;
        }
    });
#pragma unroll 1
    for (int distance = cut.team / 2; distance > 0; distance /= 2)
#pragma unroll
      for (int j = 0; j < kAfdLoads; ++j)
        sums[j] += __shfl_xor_sync(0xffffffffu, sums[j], distance);
#pragma unroll
    for (int j = 0; j < kAfdLoads; ++j) {
      const int row = place.first + base + j * place.step;
      if (place.member == 0 && row < place.end)
        of_rows[row] = cut.tiles == 1 ? sums[j] / T(cut.columns) : sums[j];
    }
  }
  // The columns' sums, over the teams in their order.
  T* const shared = reinterpret_cast<T*>(shared_memory());
  const int elements = kWide ? 16 / cut.itemsize : 1;
#pragma unroll
  for (int k = 0; k < kMaxPacket; ++k)
    if (k < elements) shared[k * kAfdThreads + threadIdx.x] = kept[k];
  __syncthreads();
  const int count = cut.team * elements;
  const int i = threadIdx.x, column = place.tile * count + i;
  if (i >= count || column >= cut.columns) return;
  const T* const mine = shared + i % elements * kAfdThreads + i / elements;
  T sum = 0;
#pragma unroll 4
  for (int team = 0; team < place.step; ++team) sum += mine[team * cut.team];
  args.of_columns[(int64_t(place.group) * cut.batch + place.b) * cut.columns + column] =
      cut.groups == 1 ? sum / T(cut.rows) : sum;
}

template <typename T>
__global__ void __launch_bounds__(kAfdThreads, sizeof(T) == 4 ? 3 : 2)
    afd_fwd_kernel(const __grid_constant__ AfdForwardArgs<T> args) {
  if (args.cut.pixels && args.cut.wide)
    add_up<true, true>(args);
  else if (args.cut.pixels)
    add_up<true, false>(args);
  else if (args.cut.wide)
    add_up<false, true>(args);
  else
    add_up<false, false>(args);
}

template <typename T>
__global__ void __launch_bounds__(kAfdThreads)
    afd_mean_kernel(const __grid_constant__ AfdMeanArgs<T> args) {
  T* const shared = reinterpret_cast<T*>(shared_memory());
  const int64_t i = int64_t(blockIdx.x) * kAfdResults + threadIdx.x % kAfdResults;
  T sum = 0;
  if (i < args.size)
#pragma unroll 4
    for (int part = threadIdx.x / kAfdResults; part < args.parts; part += kAfdPartLanes)
      sum += args.sums[part * args.size + i];
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kAfdResults || i >= args.size) return;
#pragma unroll
  for (int lane = 1; lane < kAfdPartLanes; ++lane) sum += shared[lane * kAfdResults + threadIdx.x];
  args.means[i] = sum / T(args.count);
}

// derived: d map_i / d A_ci = 2 A_ci / C and d mean_c / d A_ci = 1 / N.
template <bool kPixels, bool kWide, typename T>
__device__ __forceinline__ void gradient(const AfdBackwardArgs<T>& args) {
  const AfdCut& cut = args.cut;
  const AfdPlace place = afd_place(cut);
  if (!place.active) return;
  const int channels = kPixels ? cut.columns : cut.rows;
  const int positions = kPixels ? cut.rows : cut.columns;
  const T* const grad_map = args.grad_map + place.b * positions;
  const T* const grad_means = args.grad_means + place.b * channels;
  const auto factor = [&](int i) { return T(2) * __ldg(grad_map + i) / T(channels); };
  const auto shift = [&](int c) { return __ldg(grad_means + c) / T(positions); };
  const int elements = kWide ? 16 / cut.itemsize : 1;
  T of_columns[kMaxPacket] = {};
#pragma unroll
  for (int k = 0; k < kMaxPacket; ++k)
    if (k < elements) of_columns[k] = kPixels ? shift(place.column + k) : factor(place.column + k);
  const char* from = afd_begin(cut, args.features, place);
  char* to = afd_begin(cut, args.gradient, place);
  const int64_t stride = args.features.stride_row * cut.itemsize;
  const int64_t stride_to = args.gradient.stride_row * cut.itemsize;
#pragma unroll 1
  for (int base = place.first; base < place.end; base += kAfdLoads * place.step) {
    uint4 bits[kAfdLoads];
    T of_row[kAfdLoads];
    afd_load<kWide, T>(cut.storage, from, stride, base, place.step, place.end, bits);
#pragma unroll
    for (int j = 0; j < kAfdLoads; ++j) {
      const int row = base + j * place.step;
      if (row < place.end) of_row[j] = kPixels ? factor(row) : shift(row);
    }
    for_storage<T>(cut.storage, [&](auto zero) {
      using S = decltype(zero);
#pragma unroll
      for (int j = 0; j < kAfdLoads; ++j) {
        const int row = base + j * place.step;
        if (row >= place.end) continue;
        const auto result = [&](int k) {
          const T value = get<T, S>(bits[j], k);
          return S(kPixels ? value * of_row[j] + of_columns[k] : value * of_columns[k] + of_row[j]);
        };
        char* const out = to + row * stride_to;
        if constexpr (kWide) {
          uint4 results;
#pragma unroll
          for (int k = 0; k < kElements<S>; ++k) put(results, k, result(k));
          __stwb(reinterpret_cast<uint4*>(out), results);
        } else {
          *reinterpret_cast<S*>(out) = result(0);
        }
      }
    });
  }
}

template <typename T>
__global__ void __launch_bounds__(kAfdThreads, sizeof(T) == 4 ? 3 : 2)
    afd_bwd_kernel(const __grid_constant__ AfdBackwardArgs<T> args) {
  if (args.cut.pixels && args.cut.wide)
    gradient<true, true>(args);
  else if (args.cut.pixels)
    gradient<true, false>(args);
  else if (args.cut.wide)
    gradient<false, true>(args);
  else
    gradient<false, false>(args);
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_afd_forward(const Grid& grid, const AfdForwardArgs<T>& args) {
  launch("afd_fwd_kernel", cuda::afd_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_afd_mean(const Grid& grid, const AfdMeanArgs<T>& args) {
  launch("afd_mean_kernel", cuda::afd_mean_kernel<T>, grid, args);
}
template <typename T>
void launch_afd_backward(const Grid& grid, const AfdBackwardArgs<T>& args) {
  launch("afd_bwd_kernel", cuda::afd_bwd_kernel<T>, grid, args);
}

template void launch_afd_forward(const Grid&, const AfdForwardArgs<float>&);
template void launch_afd_forward(const Grid&, const AfdForwardArgs<double>&);
template void launch_afd_mean(const Grid&, const AfdMeanArgs<float>&);
template void launch_afd_mean(const Grid&, const AfdMeanArgs<double>&);
template void launch_afd_backward(const Grid&, const AfdBackwardArgs<float>&);
template void launch_afd_backward(const Grid&, const AfdBackwardArgs<double>&);

}  // namespace amd_fused
