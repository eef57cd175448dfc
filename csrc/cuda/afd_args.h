// What the operators of AFD hand to its kernels.
#pragma once

#include "amd_args.h"

namespace amd_fused {

constexpr int kAfdThreads = 256;
constexpr int kAfdLoads = 4;  // under way at once, a thread
// Of the kernel that adds up parts: neighbouring threads have results of their own, kAfdPartLanes
// of them share the parts of each.
constexpr int kAfdPartLanes = 8, kAfdResults = kAfdThreads / kAfdPartLanes;

// A sample of features as a matrix: channels are rows and positions columns; or, where channels are
// contiguous, pixels are rows and channels columns. Strides in elements.
struct AfdMatrix {
  void* data;
  int64_t stride_b, stride_row, stride_outer, stride_inner;
  int32_t inner;  // columns that follow each other stride_inner apart
};

// How the matrices are shared out: `team` neighbouring threads, a power of two within a warp, have
// a slot of columns each, and a block's teams share a group of rows.
struct AfdCut {
  int32_t batch, rows, columns, team, tiles, groups, rows_per_group;
  int16_t storage, itemsize;
  bool pixels;  // pixels are rows
  bool wide;    // slots of 16 bytes, which all columns are whole ones of; else of one element
};

// Sums of squares over channels and of values over positions, both means where nothing is left to
// add up.
template <typename T>
struct AfdForwardArgs {
  AfdCut cut;
  AfdMatrix features;
  T* of_rows;     // [tiles, B, rows]
  T* of_columns;  // [groups, B, columns]
};

template <typename T>
struct AfdMeanArgs {
  const T* sums;  // [parts, size]
  T* means;       // [size]
  int64_t size;
  int32_t parts, count;  // count: of what was added up
};

template <typename T>
struct AfdBackwardArgs {
  AfdCut cut;
  AfdMatrix features, gradient;
  const T* grad_map;    // [B, N]
  const T* grad_means;  // [B, C]
};

template <typename T>
void launch_afd_forward(const Grid&, const AfdForwardArgs<T>&);
template <typename T>
void launch_afd_mean(const Grid&, const AfdMeanArgs<T>&);
template <typename T>
void launch_afd_backward(const Grid&, const AfdBackwardArgs<T>&);

// Shared memory of a block of the forward kernel, and of the one that adds up.
template <typename T>
constexpr int afd_forward_bytes() {
  return kAfdThreads * kMaxPacket * int(sizeof(T));
}
template <typename T>
constexpr int afd_mean_bytes() {
  return kAfdThreads * int(sizeof(T));
}

}  // namespace amd_fused
