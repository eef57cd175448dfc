// Forward operator: all layer pairs in two parallel sections, the attention maps and then the
// samples.
//
// What is computed together depends on shapes alone, never on the number of threads: results are
// bitwise the same for 1 and for n threads.

#include <algorithm>
#include <optional>
#include <tuple>

#include "amd_cut.h"
#include "amd_map_units.h"

namespace amd_fused {
namespace {

// Runs a pass over all chunks of a job and adds its sums in the order of the chunks.
struct ChunkRunner {
  const std::vector<Chunk>& chunks;
  std::vector<Sums>& partial;
  bool parallel;

  template <typename F>
  void each(const F& pass) const {
    auto range = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) partial[i] = pass(chunks[i]);
    };
    if (parallel)
      torch::stable::parallel_for(0, int64_t(chunks.size()), 1, range);
    else
      range(0, int64_t(chunks.size()));
  }

  // by_quadrant[k][j]: sum number j of quadrant k.
  template <typename F>
  void sum(const F& pass, double (*by_quadrant)[2 * kTerms], int sums) const {
    each(pass);
    for (int k = 0; k < kMaxQuadrants; ++k) std::fill_n(by_quadrant[k], sums, 0.0);
    for (size_t i = 0; i < chunks.size(); ++i)
      for (int j = 0; j < sums; ++j) by_quadrant[chunks[i].quadrant][j] += partial[i].of[j];
  }
};

double over_quadrants(const double (*by_quadrant)[2 * kTerms], int j) {
  double sum = 0;
  for (int k = 0; k < kMaxQuadrants; ++k) sum += by_quadrant[k][j];
  return sum;
}

template <typename T>
void set_inverse(double square_sum, T* inverse, double* length) {
  const host::Unit<double> unit = host::unit(square_sum);
  *inverse = T(unit.inverse);
  *length = unit.length;
}

// The passes of one sample of one layer pair. Writes d loss / d f where asked; returns the loss.
template <typename T>
double run_job(Job<T>& job, const ChunkRunner& runner, T* const d_f[2]) {
  const Kernels<T>& kernel = kernels<T>();
  const Cut& cut = *job.cut;
  double sums[kMaxQuadrants][2 * kTerms];

  runner.sum([&](const Chunk& c) { return kernel.square_sums(job, c); }, sums, 2);
  for (int side = 0; side < 2; ++side) {
    const host::MapNorm<double> norm =
        host::map_norm(over_quadrants(sums, side), job.settings->eps);
    job.norm[side] = T(norm.norm);
    job.inverse_norm[side] = T(norm.inverse);
  }

  runner.sum([&](const Chunk& c) { return kernel.evaluate(job, c); }, sums, 2 * kTerms);
  for (int side = 0; side < 2; ++side)
    for (int x = 0; x < kTerms; ++x) {
      const int j = side * kTerms + x;
      set_inverse(over_quadrants(sums, j), &job.inverse[side][x], &job.length[side][x]);
      for (int k = 0; k < cut.quadrants; ++k)
        set_inverse(sums[k][j], &job.quadrant_inverse[k][side][x],
                    &job.quadrant_length[k][side][x]);
    }

  runner.sum([&](const Chunk& c) { return kernel.distances(job, c); }, sums, 2 * kTerms);
  double loss = 0;
  for (int x = 0; x < kTerms; ++x) {
    job.distance[x] = host::settled(over_quadrants(sums, x), cut.height * cut.width,
                                    job.length[kStudent][x], job.length[kTeacher][x]);
    loss += cut.weight_whole[x] * job.distance[x];
    for (int k = 0; k < cut.quadrants; ++k) {
      job.quadrant_distance[k][x] =
          host::settled(sums[k][kTerms + x], cut.length[k], job.quadrant_length[k][kStudent][x],
                        job.quadrant_length[k][kTeacher][x]);
      loss += cut.weight_quadrant[k][x] * job.quadrant_distance[k][x];
    }
  }

  // Both sides read both sides' maps, and only their own slope_g is overwritten: any order is
  // right.
  for (Side side : {kStudent, kTeacher}) {
    if (!d_f[side]) continue;
    runner.sum([&](const Chunk& c) { return kernel.slopes(job, c, side); }, sums, 1);
    const double sum_uf = over_quadrants(sums, 0);
    runner.each([&](const Chunk& c) {
      kernel.map_gradient(job, c, side, sum_uf);
      return Sums{};
    });
    scatter(cut, job.slope_g[side], d_f[side]);
  }
  return loss;
}

// The buffers of a job, taken from one allocation.
constexpr int kBuffers = 12;

template <typename T>
Job<T> make_job(const Settings<T>& settings, const Cut& cut, Form form, T* memory) {
  Job<T> job{};
  job.settings = &settings;
  job.cut = &cut;
  job.form = form;
  for (int side = 0; side < 2; ++side)
    for (T** buffer : {&job.f[side], &job.g[side], &job.n[side], &job.slope_g[side], &job.p[side],
                       &job.slope_p[side]}) {
      *buffer = memory;
      memory += cut.padded;
    }
  return job;
}

Tensor new_buffer(const Tensor& like, int64_t size, Scalar dtype) {
  return torch::stable::new_empty(like, {size}, dtype);
}

Form form_of(bool released, const std::vector<double>& components) {
  if (released) return kReleased;
  return components[0] == 0 && components[2] == 0 ? kMapAlone : kPublished;
}

template <typename T>
std::tuple<Tensor, std::vector<Tensor>> forward(const std::vector<Tensor>& tensors, int64_t layers,
                                                const Settings<T>& settings,
                                                const LossWeights& weights,
                                                const std::vector<double>& layer_weights,
                                                const std::vector<bool>& needs_grad) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const Kernels<T>& kernel = kernels<T>();  // here, so that its error is not raised inside a thread
  const int64_t batch = tensors[0].size(0);
  std::vector<Features> features;  // students, then teachers
  for (const Tensor& a : tensors) features.push_back(features_of(a));

  std::vector<Cut> cuts;
  std::vector<std::vector<Chunk>> chunks;
  int64_t longest = 0;
  size_t most_chunks = 0;
  for (int64_t l = 0; l < layers; ++l) {
    cuts.push_back(make_cut(features[l].height, features[l].width, layer_weights[l], weights));
    chunks.push_back(make_chunks(cuts[l]));
    longest = std::max(longest, cuts[l].padded);
    most_chunks = std::max(most_chunks, chunks[l].size());
  }

  Tensor loss = new_buffer(tensors[0], batch, kDtype);
  std::vector<Tensor> d_f;
  std::vector<T*> d_f_data;
  for (size_t i = 0; i < tensors.size(); ++i) {
    d_f_data.push_back(nullptr);
    if (!needs_grad[i]) continue;
    d_f.push_back(torch::stable::new_empty(tensors[0], {batch, features[i].positions()}, kDtype));
    d_f_data[i] = static_cast<T*>(d_f.back().data_ptr());
  }

  // Attention maps of all features, [B, N] each, one after another.
  std::vector<int64_t> map_begin{0};
  for (const Features& x : features) map_begin.push_back(map_begin.back() + batch * x.positions());
  Tensor maps = new_buffer(tensors[0], map_begin.back(), kDtype);
  T* map = static_cast<T*>(maps.data_ptr());
  auto map_of = [&](int64_t feature, int64_t sample) {
    return map + map_begin[feature] + sample * features[feature].positions();
  };
  const Form form = form_of(settings.released, weights.components);
  const std::vector<MapUnit> units = map_units(features, batch);
  torch::stable::parallel_for(0, int64_t(units.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t u = first; u < last; ++u) {
      const auto [i, sample, begin, end] = units[u];
      kernel.attention_map[features[i].storage](features[i], sample, begin, end,
                                                map_of(i, sample) + begin);
    }
  });

  // Samples: one worker a sample where there are enough of them, else the chunks of one after
  // another.
  const int64_t jobs = batch * layers;
  const int64_t threads = torch::stable::get_num_threads();
  const bool share_jobs = jobs >= 4 * threads || most_chunks == 1;
  const int64_t workers = share_jobs ? std::min(threads, jobs) : 1;
  Tensor buffers = new_buffer(tensors[0], workers * kBuffers * longest, kDtype);
  T* memory = static_cast<T*>(buffers.data_ptr());
  std::vector<double> job_loss(jobs);
  auto work = [&](int64_t worker) {
    std::vector<Sums> partial(most_chunks);
    for (int64_t j = worker * jobs / workers; j < (worker + 1) * jobs / workers; ++j) {
      const int64_t sample = j / layers, l = j % layers;
      Job<T> job = make_job(settings, cuts[l], form, memory + worker * kBuffers * longest);
      T* gradient[2];
      for (int side = 0; side < 2; ++side) {
        const int64_t i = side * layers + l;
        gather(cuts[l], map_of(i, sample), job.f[side]);
        gradient[side] = d_f_data[i] ? d_f_data[i] + sample * features[i].positions() : nullptr;
      }
      job_loss[j] = run_job(job, ChunkRunner{chunks[l], partial, !share_jobs}, gradient);
    }
  };
  if (workers == 1)
    work(0);
  else
    torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
      for (int64_t w = first; w < last; ++w) work(w);
    });

  T* loss_data = static_cast<T*>(loss.data_ptr());
  for (int64_t b = 0; b < batch; ++b) {
    double sum = 0;
    for (int64_t l = 0; l < layers; ++l) sum += job_loss[b * layers + l];
    loss_data[b] = T(sum);
  }
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
  const LossWeights weights{local_weight, std::move(component_weights), position_mean};
  auto run = [&](auto zero) {
    using T = decltype(zero);
    const Settings<T> settings =
        make_settings<T>(margin_polynomial, margin, eps, scale, released, mask_threshold);
    return forward<T>(tensors, layers, settings, weights, layer_weights, needs_grad);
  };
  return any_double(tensors) ? run(double{}) : run(float{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("amd_fwd_cpp", TORCH_BOX(&amd_fwd)); }

}  // namespace amd_fused
