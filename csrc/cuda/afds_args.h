// What the operators of the AFDS loss hand to its kernels.
#pragma once

#include "amd_args.h"

namespace amd_fused {

constexpr int kAfdsThreads = 256;
constexpr int kAfdsLoads = 4;   // of each side under way at once, a thread
constexpr int kAfdsSlots = 32;  // of neighbouring channels, in a block of pixels
// Elements that a thread loads at once. In double both sides are float64 then.
template <typename T>
constexpr int kAfdsPacket = sizeof(T) == 8 ? 2 : kMaxPacket;

// One side's features or their gradient, strides in elements.
struct AfdsMap {
  void* data;  // [B, C, H, W]; null: a gradient that nobody wants
  int64_t stride_b, stride_c, stride_h, stride_w;
  int32_t storage, itemsize;
};

// Rows: `team` neighbouring threads share the positions of a channel. Pixels, where channels are
// contiguous: `team` of them have a slot of channels each, and a block's teams share the positions.
template <typename T>
struct AfdsArgs {
  AfdsMap side[2], gradient[2];
  T* distance;             // [B, C]
  T* numbers;              // [B, C, 4], as amd_fused/losses/afds/operator.py has them
  const T* grad_distance;  // [B, C]
  int64_t stride_grad_b, stride_grad_c;
  T eps;
  bool normalises;
  int32_t batch, channels, height, width, team;
  bool pixels, wide;  // wide: slots of 16 bytes, on both sides and of the gradients
};

template <typename T>
void launch_afds_forward(const Grid&, const AfdsArgs<T>&);
template <typename T>
void launch_afds_backward(const Grid&, const AfdsArgs<T>&);

// Shared memory of a block of the forward kernel.
template <typename T>
constexpr int afds_shared_bytes() {
  return kAfdsThreads * kAfdsPacket<T> * int(sizeof(T));
}

}  // namespace amd_fused
