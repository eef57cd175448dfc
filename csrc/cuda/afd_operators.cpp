// Operators of AFD. Forward, a launch a feature reads it once, and one more each for its map and
// its means where a block has not all of their sums. Backward, a launch a feature reads it once and
// writes its gradient once. How a launch is cut follows from shape, strides and dtypes alone.

#include "afd_args.h"
#include "amd_plan.h"
#include "amd_tensors.h"
#include "device.h"

namespace amd_fused {
namespace {

constexpr int64_t kMostGroups = 64;
constexpr int64_t kBackwardRounds = 4;  // of loads, for which a thread keeps its columns' factors

AfdMatrix matrix_of(const Features& x, bool pixels) {
  if (pixels) return {x.data, x.stride_b, x.pixel_stride(), 0, 1, int32_t(x.channels)};
  return {x.data, x.stride_b, x.stride_c, x.stride_h, x.stride_w, int32_t(x.width)};
}

bool is_wide(const Features& x, bool pixels) {
  if (!pixels) return rows_per_slot(x, 0) == 1;
  return x.channels % (16 / itemsize_of(x.storage)) == 0 && wide_pixels(x);
}

// maps: the features, and their gradient if there is one. All rows are one group yet.
AfdCut cut_of(const std::vector<Features>& maps, int64_t batch) {
  const Features& x = maps[0];
  const auto all = [&](auto is) { return std::all_of(maps.begin(), maps.end(), is); };
  AfdCut cut{};
  cut.storage = int16_t(x.storage);
  cut.itemsize = int16_t(itemsize_of(x.storage));
  cut.pixels = all([](const Features& map) { return map.layout == kPixels; });
  cut.wide = all([&](const Features& map) { return is_wide(map, cut.pixels); });
  cut.batch = int32_t(batch);
  cut.rows = int32_t(cut.pixels ? x.positions() : x.channels);
  cut.columns = int32_t(cut.pixels ? x.channels : x.positions());
  const int64_t slots = cut.wide ? cut.columns / (16 / cut.itemsize) : cut.columns;
  cut.team = int32_t(std::min<int64_t>(kLanesOfWarp, next_power_of_2(slots)));
  cut.tiles = int32_t(ceil_div(slots, cut.team));
  cut.groups = 1;
  return cut;
}

// Rows that a block's threads take in so many rounds of loads.
int64_t rows_in(const AfdCut& cut, int64_t rounds) {
  return kAfdThreads / cut.team * kAfdLoads * rounds;
}

Grid grid_of(const OnDevice& device, const AfdCut& cut, int shared_bytes) {
  return device.grid(int64_t(cut.batch) * cut.tiles * cut.groups, kAfdThreads, shared_bytes);
}

// means: the sums of all parts, [parts, size], over the count of what was added up.
template <typename T>
void add_parts(const OnDevice& device, const Tensor& sums, Tensor& means, int64_t parts,
               int64_t count) {
  const int64_t size = means.numel();
  launch_afd_mean(
      device.grid(ceil_div(size, kAfdResults), kAfdThreads, afd_mean_bytes<T>()),
      AfdMeanArgs<T>{static_cast<const T*>(sums.data_ptr()), static_cast<T*>(means.data_ptr()),
                     size, int32_t(parts), int32_t(count)});
}

template <typename T>
void forward(const Tensor& features, Tensor& map, Tensor& means) {
  const OnDevice device(features);
  const Features x = features_of(features);
  AfdCut cut = cut_of({x}, features.size(0));
  // Four blocks a multiprocessor, while each thread has rows for several rounds.
  while (cut.groups < kMostGroups &&
         int64_t(cut.batch) * cut.tiles * cut.groups < 4 * device.limits().multiprocessors &&
         cut.rows / (2 * cut.groups) >= rows_in(cut, 2))
    cut.groups *= 2;
  cut.rows_per_group = int32_t(ceil_div(cut.rows, cut.groups));
  Tensor& of_rows = cut.pixels ? map : means;
  Tensor& of_columns = cut.pixels ? means : map;
  const auto sums_for = [&](const Tensor& result, int64_t parts) {
    return parts == 1 ? result : torch::stable::new_empty(result, {parts, result.numel()});
  };
  const Tensor row_sums = sums_for(of_rows, cut.tiles);
  const Tensor column_sums = sums_for(of_columns, cut.groups);
  launch_afd_forward(
      grid_of(device, cut, afd_forward_bytes<T>()),
      AfdForwardArgs<T>{cut, matrix_of(x, cut.pixels), static_cast<T*>(row_sums.data_ptr()),
                        static_cast<T*>(column_sums.data_ptr())});
  if (cut.tiles > 1) add_parts<T>(device, row_sums, of_rows, cut.tiles, cut.columns);
  if (cut.groups > 1) add_parts<T>(device, column_sums, of_columns, cut.groups, cut.rows);
}

template <typename T>
void backward(const Tensor& grad_map, const Tensor& grad_means, const Tensor& features,
              const Tensor& gradient) {
  const OnDevice device(features);
  const Features x = features_of(features), to = features_of(gradient);
  AfdCut cut = cut_of({x, to}, features.size(0));
  cut.rows_per_group = int32_t(rows_in(cut, kBackwardRounds));
  cut.groups = int32_t(ceil_div(cut.rows, cut.rows_per_group));
  launch_afd_backward(grid_of(device, cut, 0),
                      AfdBackwardArgs<T>{cut, matrix_of(x, cut.pixels), matrix_of(to, cut.pixels),
                                         static_cast<const T*>(grad_map.data_ptr()),
                                         static_cast<const T*>(grad_means.data_ptr())});
}

// Schemas and meaning of the arguments: amd_fused/losses/afd/operator.py.
std::vector<Tensor> afd_fwd(std::vector<Tensor> features, bool in_double) {
  STD_TORCH_CHECK(in_double || !any_double(features),
                  "afd_fwd: float64 is computed in float64 only");
  const Scalar dtype = in_double ? Scalar::Double : Scalar::Float;
  std::vector<Tensor> result, means;
  for (const Tensor& a : features) {
    result.push_back(torch::stable::new_empty(a, {a.size(0), 1, a.size(2), a.size(3)}, dtype));
    means.push_back(torch::stable::new_empty(a, {a.size(0), a.size(1)}, dtype));
    in_double ? forward<double>(a, result.back(), means.back())
              : forward<float>(a, result.back(), means.back());
  }
  result.insert(result.end(), means.begin(), means.end());
  return result;
}

std::vector<Tensor> afd_bwd(std::vector<Tensor> grad_maps, std::vector<Tensor> grad_means,
                            std::vector<Tensor> features) {
  std::vector<Tensor> result;
  for (size_t i = 0; i < features.size(); ++i) {
    const bool is_double = grad_maps[i].scalar_type() == Scalar::Double;
    STD_TORCH_CHECK(grad_maps[i].is_contiguous() && grad_means[i].is_contiguous() &&
                        grad_means[i].scalar_type() == grad_maps[i].scalar_type(),
                    "afd_bwd: the upstream gradients must be contiguous and of one dtype");
    result.push_back(torch::stable::empty_like(features[i]));
    is_double ? backward<double>(grad_maps[i], grad_means[i], features[i], result.back())
              : backward<float>(grad_maps[i], grad_means[i], features[i], result.back());
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("afd_fwd_cuda", TORCH_BOX(&afd_fwd));
  m.impl("afd_bwd_cuda", TORCH_BOX(&afd_bwd));
}

}  // namespace amd_fused
