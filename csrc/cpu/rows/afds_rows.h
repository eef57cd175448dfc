// What the AFDS operators hand to the kernels. Plain structs, the same for every instruction set.
#pragma once

#include <stdint.h>

namespace amd_fused {

// What the backward pass needs of one channel of one sample: 1 / (norm + eps) of each side, and
// (x - y).x / norm_s and (y - x).y / norm_t of the normalised channels x and y. In this order a row
// of the tensor `numbers`.
template <typename T>
struct AfdsRow {
  T inverse_s, inverse_t, own_s, own_t;
};
constexpr int64_t kAfdsRowNumbers = 4;

// Two sums over positions: of the squares of student and teacher, or of (x - y)^2 and (x - y) x.
struct AfdsSums {
  double first, second;
};

// Positions of many channels at once: element (i, c) of a side lies at i * its stride + c.
template <typename T>
struct AfdsPixels {
  const T* s;
  const T* t;
  int64_t stride_s, stride_t, positions, channels;
};

// Where gradients of pixels go; null: not wanted. past_cache: written around the caches where they
// are aligned.
template <typename T>
struct AfdsPixelGradients {
  T* s;
  T* t;
  int64_t stride_s, stride_t;
  bool past_cache;
};

// Passes over one tile: of one channel's positions, or (pixel_...) of pixels. The arrays of the
// latter have a number a channel, up to a whole vector.
template <typename T>
struct AfdsKernels {
  AfdsSums (*squares)(const T* s, const T* t, int64_t count);
  AfdsSums (*distances)(const T* s, const T* t, int64_t count, T inverse_s, T inverse_t);
  // d_s = scale ((x - y) inverse_s - x own_s), and d_t with the sides exchanged; either may be
  // null.
  void (*gradients)(const T* s, const T* t, int64_t count, AfdsRow<T> row, T scale, T* d_s, T* d_t);

  // Both add to `first` and `second`.
  void (*pixel_squares)(AfdsPixels<T> pixels, T* first, T* second);
  void (*pixel_distances)(AfdsPixels<T> pixels, const T* inverse_s, const T* inverse_t, T* first,
                          T* second);
  // by[k]: of each channel inverse_s and inverse_t, then inverse_s, own_s, inverse_t and own_t
  // times its scale.
  void (*pixel_gradients)(AfdsPixels<T> pixels, const T* const by[6],
                          AfdsPixelGradients<T> gradients);
};

}  // namespace amd_fused
