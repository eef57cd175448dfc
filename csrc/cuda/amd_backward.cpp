// Backward operator: every feature's gradient in one launch.

#include "amd_plan.h"
#include "amd_tensors.h"
#include "device.h"
#include "kernels.h"

namespace amd_fused {
namespace {

template <typename T>
void backward(const Tensor& grad_loss, const std::vector<Features>& features,
              const std::vector<Features>& gradients, const std::vector<Tensor>& d_f) {
  const OnDevice device(grad_loss);
  const int64_t batch = grad_loss.size(0), count = int64_t(features.size());
  for (int64_t first = 0; first < count; first += kMaxLayers) {
    GradientArgs<T> args{};
    args.grad_loss = static_cast<const T*>(grad_loss.data_ptr());
    args.stride_grad_loss = grad_loss.stride(0);
    int64_t blocks = 0;
    for (int64_t i = first; i < std::min(count, first + kMaxLayers); ++i) {
      const Features &in = features[i], &out = gradients[i];
      const GradientPlan plan = gradient_plan(in, out, batch, device.limits());
      args.feature[args.features++] = {in.data,
                                       out.data,
                                       static_cast<const T*>(d_f[i].data_ptr()),
                                       in.stride_b,
                                       in.stride_c,
                                       in.stride_h,
                                       in.stride_w,
                                       out.stride_b,
                                       out.stride_c,
                                       out.stride_h,
                                       out.stride_w,
                                       blocks,
                                       int32_t(in.channels),
                                       int32_t(in.height),
                                       int32_t(in.width),
                                       int32_t(plan.slots_per_tile),
                                       int32_t(plan.tiles),
                                       int32_t(plan.row_blocks),
                                       int32_t(plan.steps),
                                       int16_t(in.storage),
                                       int16_t(itemsize_of(in.storage)),
                                       int16_t(plan.pixels),
                                       int16_t(plan.wide),
                                       int16_t(plan.rows)};
      blocks += plan.blocks(batch);
    }
    launch_gradient(device.grid(blocks, kGradientThreads, 0), args);
  }
}

// Schema and meaning of the arguments: amd_fused/losses/amd/operator.py.
std::vector<Tensor> amd_bwd(Tensor grad_loss, std::vector<Tensor> features,
                            std::vector<Tensor> d_f) {
  std::vector<Tensor> result;
  std::vector<Features> from, to;
  for (size_t i = 0; i < features.size(); ++i) {
    STD_TORCH_CHECK(d_f[i].is_contiguous() && d_f[i].scalar_type() == grad_loss.scalar_type(),
                    "amd_bwd: d_f must be contiguous and of the dtype of grad_loss");
    result.push_back(torch::stable::empty_like(features[i]));
    from.push_back(features_of(features[i]));
    to.push_back(features_of(result[i]));
  }
  if (grad_loss.scalar_type() == Scalar::Double)
    backward<double>(grad_loss, from, to, d_f);
  else
    backward<float>(grad_loss, from, to, d_f);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("amd_bwd_cuda", TORCH_BOX(&amd_bwd));
}

}  // namespace amd_fused
