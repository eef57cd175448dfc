// One sample of one layer pair in one block: its maps, in shared memory, to its loss and dL/df.
//
// A quarter of the threads, whole warps, works on each quadrant (Eq. 9), so that sums by quadrant
// are sums of warps. In every pass a thread meets the same positions, so that passes need barriers
// for their sums alone. Four sums: norms, squares, distances, u f.
#pragma once

#include "amd_map.cuh"
#include "amd_terms.cuh"

namespace amd_fused {
namespace cuda {

constexpr int kWarp = 32, kMaxWarps = kMaxSampleThreads / kWarp;

// Shared memory of a block, one part after another: Sample, partial sums, f of both sides, then g
// of both; the last is scratch while features are read.
template <typename T>
struct SampleMemory {
  Sample<T>* sample;
  T* partial;  // [warps, 2 * kTerms]
  T* maps;     // [4, positions]
  int positions;

  __device__ __forceinline__ SampleMemory(char* memory, int positions) : positions(positions) {
    sample = reinterpret_cast<Sample<T>*>(memory);
    partial = reinterpret_cast<T*>(memory + sizeof(Sample<T>));
    maps = partial + kMaxWarps * 2 * kTerms;
  }
  __device__ __forceinline__ T* f(int side) const { return maps + side * positions; }
  __device__ __forceinline__ T* g(int side) const { return maps + (2 + side) * positions; }
  static constexpr int64_t bytes(int64_t positions, int threads) {
    const int64_t scratch = int64_t(threads) * kMaxPacket;
    const int64_t maps = 2 * positions + (2 * positions > scratch ? 2 * positions : scratch);
    return sizeof(Sample<T>) + (kMaxWarps * 2 * kTerms + maps) * sizeof(T);
  }
};

// Leaves the sums of each warp in `partial`, for SumOfWarps.
template <typename T, int kCount>
__device__ __forceinline__ void sum_warps(T (&values)[kCount], T* partial) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[j] += __shfl_xor_sync(0xffffffffu, values[j], distance);
  if (threadIdx.x % kWarp == 0)
#pragma unroll
    for (int j = 0; j < kCount; ++j) partial[threadIdx.x / kWarp * kCount + j] = values[j];
  __syncthreads();
}

// Adds up what sum_warps left, in a fixed order: warps, then quadrants.
template <typename T, int kCount>
struct SumOfWarps {
  const T* partial;
  int warps;  // of a quadrant

  __device__ __forceinline__ T operator()(int region, int j) const {
    if (region < kWhole) return of_quadrant(region, j);
    T sum = 0;
#pragma unroll 1
    for (int k = 0; k < kMaxQuadrants; ++k) sum += of_quadrant(k, j);
    return sum;
  }
  __device__ __forceinline__ T of_quadrant(int k, int j) const {
    T sum = 0;
#pragma unroll 1
    for (int w = 0; w < warps; ++w) sum += partial[(k * warps + w) * kCount + j];
    return sum;
  }
};

// From the maps in m.f() to the loss and dL/df. Starts after a barrier behind the writes to m.f().
template <typename T>
__device__ __forceinline__ void finish_sample(const SampleLayer<T>& layer,
                                              const Options<T>& options, const SampleMemory<T>& m,
                                              int64_t b) {
  const MapSize size{layer.height, layer.width};
  const Settings<T>& o = options.settings;
  Sample<T>& sample = *m.sample;
  const bool local = options.local_weight > 0;
  const int per_quadrant = blockDim.x / kMaxQuadrants;
  const int quadrant = threadIdx.x / per_quadrant;
  const int positions = size.count(kWhole), warps = per_quadrant / kWarp;
  const Walk start(size, quadrant, threadIdx.x % per_quadrant, positions, per_quadrant);

  T squares_of_f[2] = {};
  for (int i = threadIdx.x; i < positions; i += blockDim.x)
    for (int side = 0; side < 2; ++side) squares_of_f[side] += m.f(side)[i] * m.f(side)[i];
  sum_warps(squares_of_f, m.partial);
  finish_norms(&sample, T(o.eps), SumOfWarps<T, 2>{m.partial, warps});
  __syncthreads();

  T squares[2 * kTerms] = {};
  for (Walk at = start; at.inside(); at.next()) {
    const int i = at.position;
    const Terms<T> s = terms_of(m.f(kStudent)[i], sample.norm[kStudent], o);
    const Terms<T> t = terms_of(m.f(kTeacher)[i], sample.norm[kTeacher], o);
    m.g(kStudent)[i] = s.x[0];
    m.g(kTeacher)[i] = t.x[0];
    add_squares(s, t, squares);
  }
  sum_warps(squares, m.partial);
  finish_squares(&sample, SumOfWarps<T, 2 * kTerms>{m.partial, warps});
  __syncthreads();

  T distances[2 * kTerms] = {};
  for (Walk at = start; at.inside(); at.next()) {
    const int i = at.position;
    const Terms<T> s = terms_of(m.f(kStudent)[i], m.g(kStudent)[i], sample.norm[kStudent], o);
    const Terms<T> t = terms_of(m.f(kTeacher)[i], m.g(kTeacher)[i], sample.norm[kTeacher], o);
    add_distances(sample, quadrant, s, t, distances);
  }
  sum_warps(distances, m.partial);
  finish_distances(&sample, size, options, layer.weight,
                   SumOfWarps<T, 2 * kTerms>{m.partial, warps});
  __syncthreads();
  if (threadIdx.x == 0) layer.loss[b] = loss_of(sample, local);
  if (!layer.d_f[kStudent] && !layer.d_f[kTeacher]) return;

  // u takes the place of g.
  T sums_uf[2] = {};
  for (Walk at = start; at.inside(); at.next()) {
    const int i = at.position;
    const T f_s = m.f(kStudent)[i], f_t = m.f(kTeacher)[i];
    const Terms<T> s = terms_of(f_s, sample.norm[kStudent], o);
    const Terms<T> t = terms_of(f_t, sample.norm[kTeacher], o);
    if (layer.d_f[kStudent]) {
      const T u = slope_of(sample, kStudent, quadrant, local, s, t);
      m.g(kStudent)[i] = u;
      sums_uf[kStudent] += u * f_s;
    }
    if (layer.d_f[kTeacher]) {
      const T u = slope_of(sample, kTeacher, quadrant, local, t, s);
      m.g(kTeacher)[i] = u;
      sums_uf[kTeacher] += u * f_t;
    }
  }
  sum_warps(sums_uf, m.partial);
  const SumOfWarps<T, 2> sum_uf{m.partial, warps};
  if (threadIdx.x < 2) sample.sum_uf[threadIdx.x] = sum_uf(kWhole, threadIdx.x);
  __syncthreads();
  for (int side = 0; side < 2; ++side) {
    if (!layer.d_f[side]) continue;
    const MapNorm<T> norm = sample.norm[side];
    const T radial = radial_factor(sample.sum_uf[side], norm.norm, norm.inverse);
    T* d_f = layer.d_f[side] + b * positions;
    for (int i = threadIdx.x; i < positions; i += blockDim.x)
      d_f[i] = m.g(side)[i] * norm.inverse - m.f(side)[i] * radial;
  }
}

}  // namespace cuda
}  // namespace amd_fused
