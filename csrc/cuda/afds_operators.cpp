// Operators of the AFDS loss, one launch each. How a launch is cut follows from shapes, strides and
// dtypes alone. Bytes as in the Triton kernels, amd_fused/losses/afds/triton.py.

#include <optional>
#include <tuple>

#include "afds_args.h"
#include "amd_plan.h"
#include "amd_tensors.h"
#include "device.h"

namespace amd_fused {
namespace {

AfdsMap map_of(const Features& x) {
  return {x.data,
          x.stride_b,
          x.stride_c,
          x.stride_h,
          x.stride_w,
          x.storage,
          int32_t(itemsize_of(x.storage))};
}

// 16 bytes at a time where every map has the same elements and whole slots of them.
bool is_wide(const std::vector<Features>& maps, bool pixels) {
  return std::all_of(maps.begin(), maps.end(), [&](const Features& x) {
    const int64_t elements = 16 / itemsize_of(x.storage);
    const bool whole =
        pixels ? x.channels % elements == 0 && wide_pixels(x) : rows_per_slot(x, 0) == 1;
    return whole && x.storage == maps[0].storage;
  });
}

// maps: student and teacher, and the gradients that are wanted.
template <typename T>
AfdsArgs<T> cut(const std::vector<Features>& maps, int64_t batch) {
  const Features& x = maps[0];
  AfdsArgs<T> args{};
  args.pixels = std::all_of(maps.begin(), maps.end(),
                            [](const Features& map) { return map.layout == kPixels; });
  args.wide = is_wide(maps, args.pixels);
  args.batch = int32_t(batch);
  args.channels = int32_t(x.channels);
  args.height = int32_t(x.height);
  args.width = int32_t(x.width);
  for (int side = 0; side < 2; ++side) args.side[side] = map_of(maps[side]);
  const int64_t elements = args.wide ? 16 / itemsize_of(x.storage) : 1;
  args.team =
      args.pixels
          ? int32_t(std::min<int64_t>(kAfdsSlots, x.channels / elements))
          : int32_t(std::min<int64_t>(
                kAfdsThreads, next_power_of_2(ceil_div(x.positions(), elements * kAfdsLoads))));
  return args;
}

template <typename T>
int64_t blocks_of(const AfdsArgs<T>& args) {
  if (!args.pixels) return ceil_div(int64_t(args.batch) * args.channels, kAfdsThreads / args.team);
  const int64_t elements = args.wide ? 16 / args.side[0].itemsize : 1;
  return args.batch * ceil_div(args.channels / elements, args.team);
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher,
                                   std::optional<double> eps) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const OnDevice device(student);
  const int64_t batch = student.size(0), channels = student.size(1);
  Tensor distance = torch::stable::new_empty(student, {batch, channels}, kDtype);
  Tensor numbers = torch::stable::new_empty(student, {batch, channels, 4}, kDtype);
  AfdsArgs<T> args = cut<T>({features_of(student), features_of(teacher)}, batch);
  args.distance = static_cast<T*>(distance.data_ptr());
  args.numbers = static_cast<T*>(numbers.data_ptr());
  args.normalises = eps.has_value();
  args.eps = T(eps.value_or(0));
  launch_afds_forward(device.grid(blocks_of(args), kAfdsThreads, afds_shared_bytes<T>()), args);
  return {distance, numbers};
}

template <typename T>
void backward(const Tensor& grad_distance, const Tensor& numbers, const std::vector<Features>& maps,
              const std::vector<bool>& needs_grad) {
  const OnDevice device(grad_distance);
  AfdsArgs<T> args = cut<T>(maps, grad_distance.size(0));
  size_t next = 2;
  for (int side = 0; side < 2; ++side)
    if (needs_grad[side]) args.gradient[side] = map_of(maps[next++]);
  args.numbers = static_cast<T*>(numbers.data_ptr());
  args.grad_distance = static_cast<const T*>(grad_distance.data_ptr());
  args.stride_grad_b = grad_distance.stride(0);
  args.stride_grad_c = grad_distance.stride(1);
  launch_afds_backward(device.grid(blocks_of(args), kAfdsThreads, 0), args);
}

// Schemas and meaning of the arguments: amd_fused/losses/afds/operator.py.
std::tuple<Tensor, Tensor> afds_fwd(Tensor student, Tensor teacher, std::optional<double> eps) {
  return any_double({student, teacher}) ? forward<double>(student, teacher, eps)
                                        : forward<float>(student, teacher, eps);
}

std::vector<Tensor> afds_bwd(Tensor grad_distance, Tensor student, Tensor teacher, Tensor numbers,
                             std::vector<bool> needs_grad) {
  STD_TORCH_CHECK(numbers.is_contiguous() && numbers.scalar_type() == grad_distance.scalar_type(),
                  "afds_bwd: numbers must be contiguous and of the dtype of grad_distance");
  std::vector<Tensor> result;
  std::vector<Features> maps{features_of(student), features_of(teacher)};
  for (int side = 0; side < 2; ++side)
    if (needs_grad[side]) {
      result.push_back(torch::stable::empty_like(side == 0 ? student : teacher));
      maps.push_back(features_of(result.back()));
    }
  if (grad_distance.scalar_type() == Scalar::Double)
    backward<double>(grad_distance, numbers, maps, needs_grad);
  else
    backward<float>(grad_distance, numbers, maps, needs_grad);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("afds_fwd_cuda", TORCH_BOX(&afds_fwd));
  m.impl("afds_bwd_cuda", TORCH_BOX(&afds_bwd));
}

}  // namespace amd_fused
