// Backward kernel: the gradient of all features of a launch.

#include "amd_grad.cuh"
#include "kernels.h"
#include "launch.h"

namespace amd_fused {
namespace cuda {
namespace {

template <typename T>
__global__ void __launch_bounds__(kGradientThreads, sizeof(T) == 4 ? 3 : 2)
    amd_bwd_kernel(const __grid_constant__ GradientArgs<T> args) {
  int number = 0;
  while (number + 1 < args.features && blockIdx.x >= args.feature[number + 1].first_block) ++number;
  const GradientOf<T>& x = args.feature[number];
  feature_gradient(x, int(blockIdx.x - x.first_block), args.grad_loss, args.stride_grad_loss);
}

}  // namespace
}  // namespace cuda

template <typename T>
void launch_gradient(const Grid& grid, const GradientArgs<T>& args) {
  launch("amd_bwd_kernel", cuda::amd_bwd_kernel<T>, grid, args);
}

template void launch_gradient(const Grid&, const GradientArgs<float>&);
template void launch_gradient(const Grid&, const GradientArgs<double>&);

}  // namespace amd_fused
