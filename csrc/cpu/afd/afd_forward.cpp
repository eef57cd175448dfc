// Operator afd_fwd: of every feature the map and the channels' means, one read of each.

#include "amd_job.h"
#include "amd_map_units.h"
#include "amd_tensors.h"

namespace amd_fused {
namespace {

// A feature and what becomes of it.
template <typename T>
struct Reduced {
  Features x;
  T* map;                    // [B, N]
  T* means;                  // [B, C]
  int64_t step;              // positions of a unit; one unit a sample where they are all
  std::vector<double> sums;  // [B, units of a sample, C], of several units a sample

  int64_t units() const { return (x.positions() + step - 1) / step; }

  void average(int64_t sample, const double* of_units) const {
    for (int64_t c = 0; c < x.channels; ++c) {
      double sum = 0;
      for (int64_t unit = 0; unit < units(); ++unit) sum += of_units[unit * x.channels + c];
      means[sample * x.channels + c] = T(sum / double(x.positions()));
    }
  }
};

template <typename T>
void reduce(std::vector<Reduced<T>>& features, int64_t batch) {
  const Kernels<T>& kernel = kernels<T>();
  std::vector<Features> read;
  int64_t most_channels = 0;
  for (Reduced<T>& of : features) {
    read.push_back(of.x);
    most_channels = std::max(most_channels, of.x.channels);
    of.step = map_unit_positions(of.x);
    if (of.units() > 1) of.sums.resize(batch * of.units() * of.x.channels);
  }
  const std::vector<MapUnit> units = map_units(read, batch);
  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    std::vector<double> own(most_channels);
    for (int64_t u = first; u < last; ++u) {
      const MapUnit& unit = units[u];
      Reduced<T>& of = features[unit.feature];
      const int64_t index = unit.sample * of.units() + unit.begin / of.step;
      double* const sums = of.sums.empty() ? own.data() : of.sums.data() + index * of.x.channels;
      T* const f = of.map + unit.sample * of.x.positions() + unit.begin;
      kernel.map_and_sums[of.x.storage](of.x, unit.sample, unit.begin, unit.end, f, sums);
      for (int64_t i = 0; i < unit.end - unit.begin; ++i) f[i] /= T(of.x.channels);
      if (of.sums.empty()) of.average(unit.sample, sums);
    }
  });
  for (const Reduced<T>& of : features)
    for (int64_t b = 0; b < batch && !of.sums.empty(); ++b)
      of.average(b, of.sums.data() + b * of.units() * of.x.channels);
}

template <typename T>
std::vector<Tensor> forward(const std::vector<Tensor>& features) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const int64_t batch = features[0].size(0);
  std::vector<Tensor> maps, means;
  std::vector<Reduced<T>> reduced;
  for (const Tensor& a : features) {
    const Features x = features_of(a);
    STD_TORCH_CHECK(sizeof(T) == 8 || x.storage != kFloat64,
                    "afd_fwd: float64 is computed in float64 only");
    maps.push_back(torch::stable::new_empty(a, {batch, 1, x.height, x.width}, kDtype));
    means.push_back(torch::stable::new_empty(a, {batch, x.channels}, kDtype));
    reduced.push_back({x,
                       static_cast<T*>(maps.back().data_ptr()),
                       static_cast<T*>(means.back().data_ptr()),
                       0,
                       {}});
  }
  reduce(reduced, batch);
  maps.insert(maps.end(), means.begin(), means.end());
  return maps;
}

// Schema and meaning of the arguments: amd_fused/losses/afd/operator.py.
std::vector<Tensor> afd_fwd(std::vector<Tensor> features, bool in_double) {
  return in_double ? forward<double>(features) : forward<float>(features);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("afd_fwd_cpp", TORCH_BOX(&afd_fwd)); }

}  // namespace amd_fused
