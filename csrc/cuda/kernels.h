// The kernels' launchers, for the operators: compiled for float and double.
#pragma once

#include "amd_args.h"

namespace amd_fused {

template <typename T>
void launch_fused(const Grid&, const SampleArgs<T>&);
template <typename T>
void launch_sample(const Grid&, const SampleArgs<T>&);
template <typename T>
void launch_map(const Grid&, const MapArgs<T>&);
template <typename T>
void launch_chunks(const Grid&, const ChunkArgs<T>&);
template <typename T>
void launch_layers(const Grid&, const LayerArgs<T>&);
template <typename T>
void launch_gradient(const Grid&, const GradientArgs<T>&);

// Shared memory of a block of the sample kernels, for maps of so many positions.
template <typename T>
int sample_shared_bytes(int64_t positions, int threads);

template <typename T>
int chunk_shared_bytes();

struct DeviceLimits {
  int multiprocessors, shared_bytes;  // shared memory: what one block may have
};
// Makes `device` current for this library's runtime, which is not the one that torch brings.
DeviceLimits use_device(int device);

}  // namespace amd_fused
