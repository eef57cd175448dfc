// Forward operator: from tensors and options to launches.
//
// For one call of any number of layer pairs (rules in amd_plan.h). F: bytes of all features; M:
// bytes of one side's attention maps in the compute dtype, F's by itemsize and channels smaller.
//
// fused    1 launch    F read; M written for each side that wants a gradient
// split    2 launches  F read; 2 M written and read; M written for each gradient
// chunked  6 launches  F read; 2 M written, and read by each of 5 passes; M written twice and read
//          (5 without  once for each gradient. The passes work on a C-th of the features.
//          gradients)
//
// Layers of one form share its launches, 16 at the most; more than one layer takes one launch more,
// which adds up their losses. Backward (amd_backward.cpp), any form: 1 launch; the features that
// want a gradient and their M read once, the gradients written once. All of it is enqueued on the
// current stream without looking at a result: a call can be captured in a CUDA graph.

#include <tuple>

#include "amd_plan.h"
#include "amd_tensors.h"
#include "device.h"
#include "kernels.h"

namespace amd_fused {
namespace {

// Memory that is needed until the kernels have run: the allocator hands it to later work of the
// same stream only.
template <typename T>
class Workspace {
 public:
  explicit Workspace(const Tensor& like) : like_(like) {}
  T* take(int64_t elements) {
    parts_.push_back(torch::stable::new_empty(like_, {elements},
                                              sizeof(T) == 8 ? Scalar::Double : Scalar::Float));
    return static_cast<T*>(parts_.back().data_ptr());
  }

 private:
  const Tensor& like_;
  std::vector<Tensor> parts_;
};

template <typename T>
struct Pair {
  Features side[2];
  Form form;
  T* d_f[2];
  T* loss;
  T weight;
  T* map[2];
  int32_t groups[2];

  int64_t positions() const { return side[kStudent].positions(); }
  int64_t bytes() const {
    return side[kStudent].channels * positions() * itemsize_of(side[kStudent].storage);
  }
};

template <typename T>
class Forward {
 public:
  Forward(const Options<T>& options, int64_t batch, const OnDevice& device, Workspace<T>* workspace)
      : options_(options), batch_(batch), device_(device), workspace_(workspace) {}

  void run(std::vector<Pair<T>> pairs) {
    // Longest first: the device's tail is then made of short blocks.
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const auto& a, const auto& b) { return a.bytes() > b.bytes(); });
    std::vector<Pair<T>*> by_form[3], with_maps;
    for (Pair<T>& pair : pairs) by_form[pair.form].push_back(&pair);
    for (Form form : {kChunked, kSplit})
      with_maps.insert(with_maps.end(), by_form[form].begin(), by_form[form].end());
    if (!with_maps.empty()) map(with_maps);
    if (!by_form[kFused].empty()) sample(by_form[kFused], true);
    if (!by_form[kSplit].empty()) sample(by_form[kSplit], false);
    if (!by_form[kChunked].empty()) chunks(by_form[kChunked]);
  }

 private:
  void map(const std::vector<Pair<T>*>& pairs) {
    MapArgs<T> args{};
    args.batch = int32_t(batch_);
    int64_t blocks = 0;
    for (Pair<T>* pair : pairs)
      for (int s = 0; s < 2; ++s) {
        const Features& x = pair->side[s];
        const MapPlan plan = map_plan(x, batch_, device_.limits());
        pair->groups[s] = int32_t(plan.groups);
        pair->map[s] = workspace_->take(plan.groups * batch_ * x.positions());
        args.side[args.sides++] = map_side(x, plan, pair->map[s], blocks);
        blocks += batch_ * plan.blocks_per_map * plan.groups;
      }
    launch_map(device_.grid(blocks, kMapThreads, map_shared_bytes<T>()), args);
  }

  void sample(const std::vector<Pair<T>*>& pairs, bool fused) {
    SampleArgs<T> args{};
    args.options = options_;
    args.batch = int32_t(batch_);
    for (const Pair<T>* pair : pairs)
      args.positions = std::max(args.positions, int32_t(pair->positions()));
    const int threads = sample_threads(args.positions);
    int layers = 0;
    for (const Pair<T>* pair : pairs) {
      SampleLayer<T>& layer = args.layer[layers++];
      for (int s = 0; s < 2; ++s) {
        layer.side[s] = device_features(pair->side[s], pair->side[s].channels, threads);
        layer.map[s] = pair->map[s];
        layer.groups[s] = pair->groups[s];
        layer.d_f[s] = pair->d_f[s];
      }
      layer.loss = pair->loss;
      layer.weight = pair->weight;
      layer.height = int32_t(pair->side[kStudent].height);
      layer.width = int32_t(pair->side[kStudent].width);
    }
    const Grid grid =
        device_.grid(layers * batch_, threads, sample_shared_bytes<T>(args.positions, threads));
    if (fused)
      launch_fused(grid, args);
    else
      launch_sample(grid, args);
  }

  void chunks(const std::vector<Pair<T>*>& pairs) {
    ChunkArgs<T> args{};
    args.options = options_;
    args.batch = int32_t(batch_);
    int64_t blocks = 0;
    bool wanted = false;
    for (const Pair<T>* pair : pairs) {
      ChunkLayer<T>& layer = args.layer[args.layers++];
      layer.chunks = int32_t(ceil_div(largest_quadrant(pair->side[kStudent]), kChunkPositions));
      for (int s = 0; s < 2; ++s) {
        layer.map[s] = pair->map[s];
        layer.groups[s] = pair->groups[s];
        layer.d_f[s] = pair->d_f[s];
        wanted = wanted || pair->d_f[s];
      }
      layer.loss = pair->loss;
      layer.sums = workspace_->take(batch_ * layer.chunks * kSlotsOfAll * kMaxQuadrants);
      layer.first_block = blocks;
      layer.weight = pair->weight;
      layer.height = int32_t(pair->side[kStudent].height);
      layer.width = int32_t(pair->side[kStudent].width);
      blocks += batch_ * layer.chunks;
    }
    const Grid grid = device_.grid(blocks, kChunkThreads, chunk_shared_bytes<T>());
    for (Pass pass : {kNormPass, kSquarePass, kDistancePass, kSlopePass, kGradientPass}) {
      if (pass == kSlopePass && !wanted) continue;
      args.pass = pass;
      launch_chunks(grid, args);
    }
  }

  const Options<T>& options_;
  const int64_t batch_;
  const OnDevice& device_;
  Workspace<T>* workspace_;
};

template <typename T>
std::tuple<Tensor, std::vector<Tensor>> forward(const std::vector<Tensor>& tensors, int64_t layers,
                                                const Options<T>& options,
                                                const std::vector<double>& layer_weights,
                                                const std::vector<bool>& needs_grad) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const Tensor& like = tensors[0];
  const OnDevice device(like);
  const int64_t batch = like.size(0);
  Tensor loss = torch::stable::new_empty(like, {batch}, kDtype);
  T* loss_data = static_cast<T*>(loss.data_ptr());
  Workspace<T> workspace(like);
  T* losses = layers > 1 ? workspace.take(layers * batch) : loss_data;

  std::vector<Tensor> d_f;
  std::vector<Pair<T>> pairs(layers);
  for (int s = 0; s < 2; ++s)
    for (int64_t l = 0; l < layers; ++l) {
      const Tensor& a = tensors[s * layers + l];
      pairs[l].side[s] = features_of(a);
      if (!needs_grad[s * layers + l]) continue;
      d_f.push_back(torch::stable::new_empty(like, {batch, pairs[l].side[s].positions()}, kDtype));
      pairs[l].d_f[s] = static_cast<T*>(d_f.back().data_ptr());
    }
  for (int64_t l = 0; l < layers; ++l) {
    Pair<T>& pair = pairs[l];
    const int shared = pair.positions() <= kMaxPositions
                           ? sample_shared_bytes<T>(pair.positions(), kMaxSampleThreads)
                           : 0;
    pair.form = form_of(pair.side[kStudent], pair.side[kTeacher], layers, batch, device.limits(),
                        shared, sizeof(T) == 8);
    pair.loss = losses + l * batch;
    pair.weight = T(layer_weights[l]);
  }
  Forward<T> passes(options, batch, device, &workspace);
  for (int64_t first = 0; first < layers; first += kMaxLayers)
    passes.run({pairs.begin() + first, pairs.begin() + std::min(layers, first + kMaxLayers)});
  if (layers > 1)
    launch_layers(device.grid(ceil_div(batch, kLayerThreads), kLayerThreads, 0),
                  LayerArgs<T>{losses, loss_data, int32_t(layers), int32_t(batch), false});
  return {loss, d_f};
}

// Schema and meaning of the arguments: amd_fused/losses/amd/operator.py, which is the only caller
// and has checked them.
std::tuple<Tensor, std::vector<Tensor>> amd_fwd(
    std::vector<Tensor> student, std::vector<Tensor> teacher,
    std::optional<std::vector<double>> margin_polynomial, double margin, double scale,
    double local_weight, bool released, std::vector<double> component_weights,
    std::optional<double> mask_threshold, std::vector<double> layer_weights, double eps,
    bool position_mean, std::vector<bool> needs_grad) {
  const int64_t layers = int64_t(student.size());
  std::vector<Tensor> tensors = std::move(student);
  tensors.insert(tensors.end(), teacher.begin(), teacher.end());
  auto run = [&](auto zero) {
    using T = decltype(zero);
    Options<T> options{};
    options.settings =
        make_settings<T>(margin_polynomial, margin, eps, scale, released, mask_threshold);
    options.local_weight = T(local_weight);
    std::copy_n(component_weights.begin(), kTerms, options.components);
    options.position_mean = position_mean;
    return forward<T>(tensors, layers, options, layer_weights, needs_grad);
  };
  return any_double(tensors) ? run(double{}) : run(float{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("amd_fwd_cuda", TORCH_BOX(&amd_fwd));
}

}  // namespace amd_fused
