// How the writing of gradients is cut into units for the threads.
#pragma once

#include <algorithm>
#include <vector>

#include "amd_features.h"

namespace amd_fused {

// Elements of one parallel unit.
constexpr int64_t kGradientUnitElements = 1 << 18;

struct GradientUnit {
  int feature;
  int64_t sample, channels[2], positions[2];
};

inline std::vector<GradientUnit> gradient_units(const std::vector<Features>& features,
                                                int64_t batch) {
  std::vector<GradientUnit> units;
  for (int64_t b = 0; b < batch; ++b)
    for (size_t i = 0; i < features.size(); ++i) {
      const int64_t channels = features[i].channels, positions = features[i].positions();
      // Rows are split over channels, everything else over positions: runs stay long.
      const bool rows = features[i].layout == kRows;
      const int64_t length = rows ? channels : positions;
      const int64_t step =
          std::max<int64_t>(1, kGradientUnitElements / (rows ? positions : channels));
      for (int64_t begin = 0; begin < length; begin += step) {
        const int64_t end = std::min(begin + step, length);
        if (rows)
          units.push_back({int(i), b, {begin, end}, {0, positions}});
        else
          units.push_back({int(i), b, {0, channels}, {begin, end}});
      }
    }
  return units;
}

}  // namespace amd_fused
