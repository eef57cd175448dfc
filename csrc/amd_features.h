// What the operators of every device work on: features, options, and how a map is cut. Plain types
// only: included for every instruction set.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define AMD_INLINE __host__ __device__ __forceinline__
#else
#define AMD_INLINE __attribute__((always_inline)) inline
#endif

namespace amd_fused {

constexpr int kMaxDegree = 31;
constexpr int kTerms = 3;         // g, p and n of Eq. 7
constexpr int kMaxQuadrants = 4;  // 2x2, Eq. 9

enum Side { kStudent, kTeacher };
enum Storage { kFloat32, kFloat64, kFloat16, kBfloat16, kStorageCount };

enum Layout {
  kRows,    // positions contiguous within a channel: NCHW, any channel stride
  kPixels,  // channels contiguous within a position: channels_last, any pixel stride
  kStrided  // anything else
};

// One side's features of one layer pair, strides in elements.
struct Features {
  void* data;
  Storage storage;
  Layout layout;
  int64_t channels, height, width;
  int64_t stride_b, stride_c, stride_h, stride_w;

  AMD_INLINE int64_t positions() const { return height * width; }
  // Distance of neighbours on the flattened map; a one-column map has them along the height.
  AMD_INLINE int64_t pixel_stride() const { return width > 1 ? stride_w : stride_h; }
};

// The options of Eq. 6, in the compute dtype T.
template <typename T>
struct Settings {
  T coefficients[kMaxDegree + 1];  // of cos(m arccos q) in powers of 2 n - 1
  int degree;                      // -1: the direct form of cos(m arccos q)
  double margin, eps;
  T scale;
  bool released;     // p = t rather than p = q
  T mask_threshold;  // n is kept where n > mask_threshold; -1 keeps all
};

// A quadrant of a map, cut at H // 2 and W // 2: the second part is the larger (Eq. 9).
struct Rectangle {
  int64_t row, column, height, width;
};
AMD_INLINE Rectangle quadrant_rectangle(int64_t height, int64_t width, int k) {
  const int64_t h = height / 2, w = width / 2;
  const bool lower = k >= 2, right = k % 2 == 1;
  return {lower ? h : 0, right ? w : 0, lower ? height - h : h, right ? width - w : w};
}

}  // namespace amd_fused
