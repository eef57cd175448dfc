// Forward kernels for maps too large for one block, or for features that one block should not read
// alone: attention maps by blocks of positions and groups of channels; a sample in chunks.

#include "amd_chunks.cuh"
#include "kernels.h"
#include "launch.h"

namespace amd_fused {
namespace cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kMapThreads, 6)
    amd_map_fwd_kernel(const __grid_constant__ MapArgs<T> args) {
  int number = 0;
  while (number + 1 < args.sides && blockIdx.x >= args.side[number + 1].first_block) ++number;
  const MapSide<T>& side = args.side[number];
  const DeviceFeatures& x = side.features;
  const int unit = int(blockIdx.x - side.first_block);
  const int group = unit % side.groups, block = unit / side.groups % side.blocks_per_map;
  const int64_t b = unit / side.groups / side.blocks_per_map;
  const int positions = x.height * x.width, begin = block * side.positions_per_block;
  const int first = group * side.channels_per_group;
  const Part part{b, begin, min(positions, begin + side.positions_per_block),
                  min(first, x.channels), min(first + side.channels_per_group, x.channels)};
  T* map = side.map + (int64_t(group) * args.batch + b) * positions;
  attention_map(x, part, reinterpret_cast<T*>(shared_memory()),
                [&](int i, T value) { map[i] = args.root ? square_root(value) : value; });
}

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, sizeof(T) == 4 ? 3 : 2)
    amd_chunk_fwd_kernel(const __grid_constant__ ChunkArgs<T> args) {
  int number = 0;
  while (number + 1 < args.layers && blockIdx.x >= args.layer[number + 1].first_block) ++number;
  const ChunkLayer<T>& layer = args.layer[number];
  const int unit = int(blockIdx.x - layer.first_block);
  run_pass(args.pass, layer, args.options, reinterpret_cast<ChunkMemory<T>*>(shared_memory()),
           unit / layer.chunks, args.batch, unit % layer.chunks);
}

// loss[b] = sum over layers of losses[layer][b], in their order, or the square root of it.
template <typename T>
__global__ void __launch_bounds__(kLayerThreads)
    amd_layers_fwd_kernel(const __grid_constant__ LayerArgs<T> args) {
  const int64_t b = int64_t(blockIdx.x) * kLayerThreads + threadIdx.x;
  if (b >= args.batch) return;
  T sum = 0;
  for (int layer = 0; layer < args.layers; ++layer)
    sum += args.losses[int64_t(layer) * args.batch + b];
  args.loss[b] = args.root ? square_root(sum) : sum;
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_map(const Grid& grid, const MapArgs<T>& args) {
  launch("amd_map_fwd_kernel", cuda::amd_map_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_chunks(const Grid& grid, const ChunkArgs<T>& args) {
  launch("amd_chunk_fwd_kernel", cuda::amd_chunk_fwd_kernel<T>, grid, args);
}
template <typename T>
void launch_layers(const Grid& grid, const LayerArgs<T>& args) {
  launch("amd_layers_fwd_kernel", cuda::amd_layers_fwd_kernel<T>, grid, args);
}
template <typename T>
int chunk_shared_bytes() {
  return int(sizeof(cuda::ChunkMemory<T>));
}

template void launch_map(const Grid&, const MapArgs<float>&);
template void launch_map(const Grid&, const MapArgs<double>&);
template void launch_chunks(const Grid&, const ChunkArgs<float>&);
template void launch_chunks(const Grid&, const ChunkArgs<double>&);
template void launch_layers(const Grid&, const LayerArgs<float>&);
template void launch_layers(const Grid&, const LayerArgs<double>&);
template int chunk_shared_bytes<float>();
template int chunk_shared_bytes<double>();

}  // namespace amd_fused
