// Operator attention_map: the square root of Eq. 4's map, one read of the features.

#include <cmath>

#include "amd_job.h"
#include "amd_map_units.h"
#include "amd_tensors.h"

namespace amd_fused {
namespace {

template <typename T>
void map_roots(const Features& x, int64_t batch, T* map) {
  const auto kernel = kernels<T>().attention_map[x.storage];
  const std::vector<MapUnit> units = map_units({x}, batch);
  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      const MapUnit& unit = units[u];
      T* const f = map + unit.sample * x.positions() + unit.begin;
      kernel(x, unit.sample, unit.begin, unit.end, f);
      for (int64_t i = 0; i < unit.end - unit.begin; ++i) f[i] = std::sqrt(f[i]);
    }
  });
}

// Schema and meaning of the arguments: amd_fused/losses/attention_map/operator.py.
Tensor attention_map(Tensor features, bool in_double) {
  const Features x = features_of(features);
  const int64_t batch = features.size(0);
  STD_TORCH_CHECK(in_double || x.storage != kFloat64,
                  "attention_map: float64 is computed in float64 only");
  Tensor map = torch::stable::new_empty(features, {batch, 1, x.height, x.width},
                                        in_double ? Scalar::Double : Scalar::Float);
  if (in_double)
    map_roots(x, batch, static_cast<double*>(map.data_ptr()));
  else
    map_roots(x, batch, static_cast<float*>(map.data_ptr()));
  return map;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) {
  m.impl("attention_map_cpp", TORCH_BOX(&attention_map));
}

}  // namespace amd_fused
