// How the reading of features is cut into units for the threads.
#pragma once

#include <algorithm>
#include <vector>

#include "amd_features.h"

namespace amd_fused {

// Feature elements that one parallel unit reads: enough to outweigh its scheduling, few enough to
// share out.
constexpr int64_t kMapUnitElements = 1 << 18;

inline int64_t map_unit_positions(const Features& x) {
  return std::max<int64_t>(64, kMapUnitElements / x.channels / 64 * 64);
}

// A stretch of one sample's map.
struct MapUnit {
  int feature;
  int64_t sample, begin, end;
};

// Sample by sample, all layers of either side: equal index ranges are equal work.
inline std::vector<MapUnit> map_units(const std::vector<Features>& features, int64_t batch) {
  std::vector<MapUnit> units;
  for (int64_t b = 0; b < batch; ++b)
    for (size_t i = 0; i < features.size(); ++i) {
      const int64_t positions = features[i].positions();
      const int64_t step = map_unit_positions(features[i]);
      for (int64_t begin = 0; begin < positions; begin += step)
        units.push_back({int(i), b, begin, std::min(begin + step, positions)});
    }
  return units;
}

}  // namespace amd_fused
