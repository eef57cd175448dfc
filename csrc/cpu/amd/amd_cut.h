// How a layer's map is cut into quadrants and chunks, and carried to and from their order.
#pragma once

#include <algorithm>
#include <vector>

#include "amd_job.h"

#define AMD_ISA host  // compiled once, for any CPU
#include "amd_math.h"
#include "amd_tensors.h"

namespace amd_fused {

inline Rectangle rectangle(const Cut& cut, int k) {
  if (cut.quadrants == 1) return {0, 0, cut.height, cut.width};
  return quadrant_rectangle(cut.height, cut.width, k);
}

// weight: this layer's share of the loss.
inline Cut make_cut(int64_t height, int64_t width, double weight, const LossWeights& weights) {
  Cut cut{};
  cut.height = height;
  cut.width = width;
  cut.quadrants = weights.local > 0 ? kMaxQuadrants : 1;
  const bool mean = weights.position_mean;
  for (int x = 0; x < kTerms; ++x)
    cut.weight_whole[x] =
        host::region_weight(weight, 1 - weights.local, weights.components[x], mean, height * width);
  for (int k = 0; k < cut.quadrants; ++k) {
    const Rectangle r = rectangle(cut, k);
    cut.begin[k] = cut.padded;
    cut.length[k] = r.height * r.width;
    cut.padded += (cut.length[k] + kPad - 1) / kPad * kPad;
    for (int x = 0; x < kTerms; ++x)
      cut.weight_quadrant[k][x] = host::region_weight(weight, weights.local / kMaxQuadrants,
                                                      weights.components[x], mean, cut.length[k]);
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
    const Rectangle r = rectangle(cut, k);
    T* to = ordered + cut.begin[k];
    for (int64_t i = 0; i < r.height; ++i, to += r.width)
      std::copy_n(natural + (r.row + i) * cut.width + r.column, r.width, to);
    std::fill(to, ordered + (k + 1 < cut.quadrants ? cut.begin[k + 1] : cut.padded), T(0));
  }
}

template <typename T>
void scatter(const Cut& cut, const T* ordered, T* natural) {
  for (int k = 0; k < cut.quadrants; ++k) {
    const Rectangle r = rectangle(cut, k);
    const T* from = ordered + cut.begin[k];
    for (int64_t i = 0; i < r.height; ++i, from += r.width)
      std::copy_n(from, r.width, natural + (r.row + i) * cut.width + r.column);
  }
}

}  // namespace amd_fused
