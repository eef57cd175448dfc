// The per-sample part for maps of any size: one block a chunk of every quadrant, one launch a pass.
//
// Between passes every chunk leaves sums by quadrant, and every block of the next pass adds those
// of its sample in the order of the chunks: no atomics, the same bits each time. The maps are a
// C-th of the features, so the passes compute g, p and n from f again rather than store them.
#pragma once

#include "amd_sample.cuh"

namespace amd_fused {
namespace cuda {

constexpr int kChunkWarps = kChunkThreads / kWarp;
constexpr int kMostSums = 2 * kTerms * kMaxQuadrants;

// Shared memory of a block of the chunk kernel.
template <typename T>
struct ChunkMemory {
  Sample<T> sample;
  T partial[kChunkWarps * 2 * kTerms];  // of sum_warps
  T columns[kChunkThreads];
  T total[kMostSums];
};

// Where the sums of a pass begin among the slots of a chunk.
__device__ __forceinline__ int first_slot(int pass) {
  int slot = 0;
  for (int earlier = 0; earlier < pass; ++earlier) slot += earlier % 3 == 0 ? 2 : 2 * kTerms;
  return slot;
}

// Leaves this chunk's sums by quadrant for the next passes.
template <typename T, int kCount>
__device__ __forceinline__ void put_sums(T (&values)[kCount], ChunkMemory<T>* memory, T* sums,
                                         int pass) {
  sum_warps(values, memory->partial);
  const SumOfWarps<T, kCount> sum{memory->partial, kChunkWarps / kMaxQuadrants};
  const int j = threadIdx.x / kMaxQuadrants, quadrant = threadIdx.x % kMaxQuadrants;
  if (j < kCount) sums[first_slot(pass) * kMaxQuadrants + threadIdx.x] = sum(quadrant, j);
}

// A pass's sums over all chunks of a sample, in shared memory: [slots, 4].
template <typename T>
struct SumOfChunks {
  const T* total;

  __device__ __forceinline__ T operator()(int region, int j) const {
    const T* sums = total + j * kMaxQuadrants;
    return region < kWhole ? sums[region] : sums[0] + sums[1] + sums[2] + sums[3];
  }
};
template <typename T>
__device__ __forceinline__ SumOfChunks<T> take_sums(ChunkMemory<T>* memory, const T* sums,
                                                    int chunks, int pass) {
  const int count = (pass % 3 == 0 ? 2 : 2 * kTerms) * kMaxQuadrants;
  const int groups = kChunkThreads / count, group = threadIdx.x / count;
  const int column = threadIdx.x % count;
  T sum = 0;
  if (group < groups)
    for (int chunk = group; chunk < chunks; chunk += groups)
      sum += sums[(int64_t(chunk) * kSlotsOfAll + first_slot(pass)) * kMaxQuadrants + column];
  memory->columns[threadIdx.x] = sum;
  __syncthreads();
  if (group == 0) {
    T total = 0;
    for (int k = 0; k < groups; ++k) total += memory->columns[k * count + column];
    memory->total[column] = total;
  }
  __syncthreads();
  return {memory->total};
}

template <typename T>
__device__ __forceinline__ void run_pass(Pass pass, const ChunkLayer<T>& layer,
                                         const Options<T>& options, ChunkMemory<T>* memory,
                                         int64_t b, int batch, int chunk) {
  const MapSize size{layer.height, layer.width};
  const Settings<T>& o = options.settings;
  const bool local = options.local_weight > 0;
  const int quadrant = threadIdx.x / (kChunkThreads / kMaxQuadrants);
  const int positions = size.count(kWhole);
  const Walk start(size, quadrant,
                   chunk * kChunkPositions + threadIdx.x % (kChunkThreads / kMaxQuadrants),
                   (chunk + 1) * kChunkPositions, kChunkThreads / kMaxQuadrants);
  T* f_s = layer.map[kStudent] + b * positions;
  T* f_t = layer.map[kTeacher] + b * positions;
  T* of_sample = layer.sums + b * layer.chunks * kSlotsOfAll * kMaxQuadrants;
  T* of_chunk = of_sample + int64_t(chunk) * kSlotsOfAll * kMaxQuadrants;
  Sample<T>& sample = memory->sample;

  if (pass == kNormPass) {
    // The channel groups' maps are added up once, in their order.
    T sums[2] = {};
#pragma unroll 1
    for (int side = 0; side < 2; ++side) {
      T* f = side == kStudent ? f_s : f_t;
      T total = 0;
      for (Walk at = start; at.inside(); at.next()) {
        T value = f[at.position];
        for (int k = 1; k < layer.groups[side]; ++k)
          value += f[at.position + int64_t(k) * batch * positions];
        if (layer.groups[side] > 1) f[at.position] = value;
        total += value * value;
      }
      if (side == kStudent)
        sums[kStudent] = total;
      else
        sums[kTeacher] = total;
    }
    put_sums(sums, memory, of_chunk, pass);
    return;
  }

  finish_norms(&sample, T(o.eps), take_sums(memory, of_sample, layer.chunks, kNormPass));
  __syncthreads();
  if (pass == kGradientPass) {
    if (chunk == 0) {
      finish_squares(&sample, take_sums(memory, of_sample, layer.chunks, kSquarePass));
      __syncthreads();
      finish_distances(&sample, size, options, layer.weight,
                       take_sums(memory, of_sample, layer.chunks, kDistancePass));
      __syncthreads();
      if (threadIdx.x == 0) layer.loss[b] = loss_of(sample, local);
    }
    if (!layer.d_f[kStudent] && !layer.d_f[kTeacher]) return;
    const SumOfChunks<T> sum_uf = take_sums(memory, of_sample, layer.chunks, kSlopePass);
#pragma unroll 1
    for (int side = 0; side < 2; ++side) {
      if (!layer.d_f[side]) continue;
      const MapNorm<T> norm = sample.norm[side];
      const T radial = radial_factor(sum_uf(kWhole, side), norm.norm, norm.inverse);
      const T* f = side == kStudent ? f_s : f_t;
      T* d_f = layer.d_f[side] + b * positions;
      for (Walk at = start; at.inside(); at.next())
        d_f[at.position] = d_f[at.position] * norm.inverse - f[at.position] * radial;
    }
    return;
  }

  if (pass > kSquarePass) {
    finish_squares(&sample, take_sums(memory, of_sample, layer.chunks, kSquarePass));
    __syncthreads();
  }
  if (pass > kDistancePass) {
    finish_distances(&sample, size, options, layer.weight,
                     take_sums(memory, of_sample, layer.chunks, kDistancePass));
    __syncthreads();
  }
  T sums[2 * kTerms] = {};
  for (Walk at = start; at.inside(); at.next()) {
    const int i = at.position;
    const Terms<T> s = terms_of(f_s[i], sample.norm[kStudent], o);
    const Terms<T> t = terms_of(f_t[i], sample.norm[kTeacher], o);
    if (pass == kSquarePass) {
      add_squares(s, t, sums);
    } else if (pass == kDistancePass) {
      add_distances(sample, quadrant, s, t, sums);
    } else {
      if (layer.d_f[kStudent]) {
        const T u = slope_of(sample, kStudent, quadrant, local, s, t);
        layer.d_f[kStudent][b * positions + i] = u;
        sums[kStudent] += u * f_s[i];
      }
      if (layer.d_f[kTeacher]) {
        const T u = slope_of(sample, kTeacher, quadrant, local, t, s);
        layer.d_f[kTeacher][b * positions + i] = u;
        sums[kTeacher] += u * f_t[i];
      }
    }
  }
  if (pass == kSlopePass) {
    T of_slopes[2] = {sums[kStudent], sums[kTeacher]};
    put_sums(of_slopes, memory, of_chunk, pass);
  } else {
    put_sums(sums, memory, of_chunk, pass);
  }
}

}  // namespace cuda
}  // namespace amd_fused
