// Operator attention_map: the square root of Eq. 4's map. One launch, which reads the features
// once; where their channels are shared out over blocks, a second one adds up their groups' sums.

#include "amd_plan.h"
#include "amd_tensors.h"
#include "device.h"
#include "kernels.h"

namespace amd_fused {
namespace {

template <typename T>
Tensor map_roots(const Tensor& features) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const OnDevice device(features);
  const Features x = features_of(features);
  const int64_t batch = features.size(0), size = batch * x.positions();
  const MapPlan plan = map_plan(x, batch, device.limits());
  Tensor map = torch::stable::new_empty(features, {batch, 1, x.height, x.width}, kDtype);
  T* const result = static_cast<T*>(map.data_ptr());
  std::optional<Tensor> sums;  // [groups, B, N]
  if (plan.groups > 1) sums = torch::stable::new_empty(features, {plan.groups * size}, kDtype);

  MapArgs<T> args{};
  args.batch = int32_t(batch);
  args.root = !sums;
  args.side[args.sides++] =
      map_side(x, plan, sums ? static_cast<T*>(sums->data_ptr()) : result, int64_t(0));
  launch_map(
      device.grid(batch * plan.blocks_per_map * plan.groups, kMapThreads, map_shared_bytes<T>()),
      args);
  if (sums)
    launch_layers(
        device.grid(ceil_div(size, kLayerThreads), kLayerThreads, 0),
        LayerArgs<T>{args.side[0].map, result, int32_t(plan.groups), int32_t(size), true});
  return map;
}

// Schema and meaning of the arguments: amd_fused/losses/attention_map/operator.py.
Tensor attention_map(Tensor features, bool in_double) {
  STD_TORCH_CHECK(in_double || features.scalar_type() != Scalar::Double,
                  "attention_map: float64 is computed in float64 only");
  return in_double ? map_roots<double>(features) : map_roots<float>(features);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("attention_map_cuda", TORCH_BOX(&attention_map));
}

}  // namespace amd_fused
