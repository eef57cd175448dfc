// From tensors and options, as the operators receive them, to the structs of amd_job.h.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "amd_job.h"

namespace amd_fused {

using torch::stable::Tensor;
using Scalar = torch::headeronly::ScalarType;

inline Storage storage_of(const Tensor& a) {
  switch (a.scalar_type()) {
    case Scalar::Float:
      return kFloat32;
    case Scalar::Double:
      return kFloat64;
    case Scalar::Half:
      return kFloat16;
    case Scalar::BFloat16:
      return kBfloat16;
    default:
      STD_TORCH_CHECK(false, "amd_fused: features must be float32, float64, float16 or bfloat16");
  }
}

// Sizes of 1 make a stride meaningless, so it is not looked at then.
inline Layout layout_of(const Features& x) {
  const bool flat = x.height == 1 || x.width == 1 || x.stride_h == x.width * x.stride_w;
  if (!flat) return kStrided;
  const bool dense_pixels = x.positions() == 1 || x.pixel_stride() == 1;
  const bool dense_channels = x.channels == 1 || x.stride_c == 1;
  if (dense_channels && (x.positions() == 1 || !dense_pixels)) return kPixels;
  return dense_pixels ? kRows : kStrided;
}

inline Features features_of(const Tensor& a) {
  Features x{a.data_ptr(), storage_of(a), kStrided,    a.size(1),   a.size(2),
             a.size(3),    a.stride(0),   a.stride(1), a.stride(2), a.stride(3)};
  x.layout = layout_of(x);
  return x;
}

// Rectangles in natural order: whole map, or quadrants cut at H // 2 and W // 2 (the second is the
// larger).
struct Rectangle {
  int64_t row, column, height, width;
};

inline Rectangle quadrant_rectangle(const Cut& cut, int k) {
  if (cut.quadrants == 1) return {0, 0, cut.height, cut.width};
  const int64_t h = cut.height / 2, w = cut.width / 2;
  const bool lower = k >= 2, right = k % 2 == 1;
  return {lower ? h : 0, right ? w : 0, lower ? cut.height - h : h, right ? cut.width - w : w};
}

struct LossWeights {
  double local;                    // w of Eq. 9
  std::vector<double> components;  // a, b, c of Eq. 7
  bool position_mean;
};

// weight: this layer's share of the loss.
inline Cut make_cut(int64_t height, int64_t width, double weight, const LossWeights& weights) {
  Cut cut{};
  cut.height = height;
  cut.width = width;
  cut.quadrants = weights.local > 0 ? kMaxQuadrants : 1;
  const double whole_positions = weights.position_mean ? double(height * width) : 1.0;
  for (int x = 0; x < kTerms; ++x)
    cut.weight_whole[x] =
        weight * (1 - weights.local) * weights.components[x] / 3 / whole_positions;
  for (int k = 0; k < cut.quadrants; ++k) {
    const Rectangle r = quadrant_rectangle(cut, k);
    cut.begin[k] = cut.padded;
    cut.length[k] = r.height * r.width;
    cut.padded += (cut.length[k] + kPad - 1) / kPad * kPad;
    const double positions = weights.position_mean ? double(cut.length[k]) : 1.0;
    for (int x = 0; x < kTerms; ++x)
      cut.weight_quadrant[k][x] =
          weight * weights.local / kMaxQuadrants * weights.components[x] / 3 / positions;
  }
  return cut;
}

inline std::vector<Chunk> make_chunks(const Cut& cut) {
  std::vector<Chunk> chunks;
  for (int k = 0; k < cut.quadrants; ++k)
    for (int64_t i = 0; i < cut.length[k]; i += kChunk) {
      const int64_t left = cut.length[k] - i;
      chunks.push_back({k, cut.begin[k] + i, left < kChunk ? left : kChunk});
    }
  return chunks;
}

// Natural order to quadrant order, padding set to 0.
template <typename T>
void gather(const Cut& cut, const T* natural, T* ordered) {
  for (int k = 0; k < cut.quadrants; ++k) {
    const Rectangle r = quadrant_rectangle(cut, k);
    T* to = ordered + cut.begin[k];
    for (int64_t i = 0; i < r.height; ++i, to += r.width)
      std::copy_n(natural + (r.row + i) * cut.width + r.column, r.width, to);
    std::fill(to, ordered + (k + 1 < cut.quadrants ? cut.begin[k + 1] : cut.padded), T(0));
  }
}

template <typename T>
void scatter(const Cut& cut, const T* ordered, T* natural) {
  for (int k = 0; k < cut.quadrants; ++k) {
    const Rectangle r = quadrant_rectangle(cut, k);
    const T* from = ordered + cut.begin[k];
    for (int64_t i = 0; i < r.height; ++i, from += r.width)
      std::copy_n(from, r.width, natural + (r.row + i) * cut.width + r.column);
  }
}

}  // namespace amd_fused
