// Operator afd_bwd: the gradients of the map and of the means reach the features in one pass.

#include "amd_grad_units.h"
#include "amd_job.h"
#include "gradient_memory.h"

namespace amd_fused {
namespace {

// Of one feature: where it lies and where its gradient goes, and both upstream gradients.
template <typename T>
struct Gradient {
  Features in, out;
  const T* by_map;       // [B, N]
  std::vector<T> shift;  // [B, C]: d mean_c / d A_ci = 1 / N, times the means' gradient
};

template <typename T>
void backward(const std::vector<Gradient<T>>& of, int64_t batch, bool past_cache) {
  const Kernels<T>& kernel = kernels<T>();
  std::vector<Features> read;
  for (const Gradient<T>& each : of) read.push_back(each.in);
  const std::vector<GradientUnit> units = gradient_units(read, batch);
  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      const GradientUnit& unit = units[u];
      const Gradient<T>& each = of[unit.feature];
      const Features& x = each.in;
      // derived: d f_i / d A_ci = 2 A_ci / C.
      kernel.feature_gradient[x.storage](
          x, each.out, unit.sample, each.by_map + unit.sample * x.positions(), T(2) / T(x.channels),
          each.shift.data() + unit.sample * x.channels, unit.channels, unit.positions, past_cache);
    }
  });
}

// Schema and meaning of the arguments: amd_fused/losses/afd/operator.py.
std::vector<Tensor> afd_bwd(std::vector<Tensor> grad_maps, std::vector<Tensor> grad_means,
                            std::vector<Tensor> features) {
  const int64_t batch = features[0].size(0);
  std::vector<Tensor> result;
  int64_t bytes = 0;
  for (const Tensor& a : features) {
    result.push_back(torch::stable::empty_like(a));
    expect_huge_pages(result.back());
    bytes += bytes_of(result.back());
  }
  auto run = [&](auto zero) {
    using T = decltype(zero);
    std::vector<Gradient<T>> of;
    for (size_t i = 0; i < features.size(); ++i) {
      STD_TORCH_CHECK(grad_maps[i].is_contiguous() && grad_means[i].is_contiguous() &&
                          grad_means[i].scalar_type() == grad_maps[0].scalar_type() &&
                          grad_maps[i].scalar_type() == grad_maps[0].scalar_type(),
                      "afd_bwd: upstream gradients must be contiguous and of one dtype");
      const Features x = features_of(features[i]);
      const T* const by_means = static_cast<const T*>(grad_means[i].data_ptr());
      std::vector<T> shift(by_means, by_means + batch * x.channels);
      for (T& value : shift) value /= T(x.positions());
      of.push_back({x, features_of(result[i]), static_cast<const T*>(grad_maps[i].data_ptr()),
                    std::move(shift)});
    }
    backward(of, batch, bytes > kPastCacheBytes);
  };
  if (grad_maps[0].scalar_type() == Scalar::Double)
    run(double{});
  else
    run(float{});
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("afd_bwd_cpp", TORCH_BOX(&afd_bwd)); }

}  // namespace amd_fused
