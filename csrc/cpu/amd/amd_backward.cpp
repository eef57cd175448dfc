// Backward operator: every feature's gradient in one parallel section.

#include "amd_grad_units.h"
#include "amd_job.h"
#include "gradient_memory.h"

namespace amd_fused {
namespace {

template <typename T>
void backward(const Tensor& grad_loss, const std::vector<Features>& features,
              const std::vector<Features>& gradients, const std::vector<Tensor>& d_f,
              bool past_cache) {
  const Kernels<T>& kernel = kernels<T>();
  const T* upstream = static_cast<const T*>(grad_loss.data_ptr());
  const int64_t stride = grad_loss.stride(0);
  std::vector<const T*> maps;
  for (const Tensor& map : d_f) maps.push_back(static_cast<const T*>(map.data_ptr()));
  const std::vector<GradientUnit> units = gradient_units(features, grad_loss.size(0));
  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      const GradientUnit& unit = units[u];
      const Features& x = features[unit.feature];
      kernel.feature_gradient[x.storage](
          x, gradients[unit.feature], unit.sample, maps[unit.feature] + unit.sample * x.positions(),
          2 * upstream[unit.sample * stride], nullptr, unit.channels, unit.positions, past_cache);
    }
  });
}

// Schema and meaning of the arguments: amd_fused/losses/amd/operator.py.
std::vector<Tensor> amd_bwd(Tensor grad_loss, std::vector<Tensor> features,
                            std::vector<Tensor> d_f) {
  std::vector<Tensor> result;
  std::vector<Features> from, to;
  int64_t bytes = 0;
  for (size_t i = 0; i < features.size(); ++i) {
    STD_TORCH_CHECK(d_f[i].is_contiguous() && d_f[i].scalar_type() == grad_loss.scalar_type(),
                    "amd_bwd: d_f must be contiguous and of the dtype of grad_loss");
    result.push_back(torch::stable::empty_like(features[i]));
    expect_huge_pages(result[i]);
    from.push_back(features_of(features[i]));
    to.push_back(features_of(result[i]));
    bytes += bytes_of(result[i]);
  }
  if (grad_loss.scalar_type() == Scalar::Double)
    backward<double>(grad_loss, from, to, d_f, bytes > kPastCacheBytes);
  else
    backward<float>(grad_loss, from, to, d_f, bytes > kPastCacheBytes);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("amd_bwd_cpp", TORCH_BOX(&amd_bwd)); }

}  // namespace amd_fused
