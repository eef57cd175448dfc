// Forward kernels for maps that one block holds in shared memory: fused, which reads the features
// itself, and after the map kernel.

#include "amd_sample.cuh"
#include "kernels.h"
#include "launch.h"

namespace amd_fused {
namespace cuda {
namespace {

// One block a (layer, sample). Two of the largest share a multiprocessor, so that one reads while
// the other computes: for float that leaves 80 registers, and nothing spills.
template <typename T>
__global__ void __launch_bounds__(kMaxSampleThreads, sizeof(T) == 4 ? 2 : 1)
    amd_fused_fwd_kernel(const __grid_constant__ SampleArgs<T> args) {
  const SampleLayer<T>& layer = args.layer[blockIdx.x / args.batch];
  const int b = blockIdx.x % args.batch;
  const SampleMemory<T> m(shared_memory(), args.positions);
#pragma unroll 1  // one copy of all ways to read features
  for (int side = 0; side < 2; ++side) {
    const DeviceFeatures& x = layer.side[side];
    T* f = m.f(side);
    attention_map(x, Part{b, 0, x.height * x.width, 0, x.channels}, m.g(0),
                  [&](int i, T value) { f[i] = value; });
  }
  __syncthreads();
  finish_sample(layer, args.options, m, b);
}

template <typename T>
__global__ void __launch_bounds__(kMaxSampleThreads, sizeof(T) == 4 ? 2 : 1)
    amd_sample_fwd_kernel(const __grid_constant__ SampleArgs<T> args) {
  const SampleLayer<T>& layer = args.layer[blockIdx.x / args.batch];
  const int64_t b = blockIdx.x % args.batch;
  const SampleMemory<T> m(shared_memory(), args.positions);
  const int positions = layer.height * layer.width;
  for (int side = 0; side < 2; ++side) {
    const int64_t group = int64_t(args.batch) * positions;
    for (int i = threadIdx.x; i < positions; i += blockDim.x) {
      const T* map = layer.map[side] + b * positions + i;
      T f = 0;
#pragma unroll 4
      for (int k = 0; k < layer.groups[side]; ++k) f += map[k * group];
      m.f(side)[i] = f;
    }
  }
  __syncthreads();
  finish_sample(layer, args.options, m, b);
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_fused(const Grid& grid, const SampleArgs<T>& args) {
  launch("amd_fused_fwd_kernel", cuda::amd_fused_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_sample(const Grid& grid, const SampleArgs<T>& args) {
  launch("amd_sample_fwd_kernel", cuda::amd_sample_fwd_kernel<T>, grid, args);
}
template <typename T>
int sample_shared_bytes(int64_t positions, int threads) {
  return int(cuda::SampleMemory<T>::bytes(positions, threads));
}

template void launch_fused(const Grid&, const SampleArgs<float>&);
template void launch_fused(const Grid&, const SampleArgs<double>&);
template void launch_sample(const Grid&, const SampleArgs<float>&);
template void launch_sample(const Grid&, const SampleArgs<double>&);
template int sample_shared_bytes<float>(int64_t, int);
template int sample_shared_bytes<double>(int64_t, int);

}  // namespace amd_fused
