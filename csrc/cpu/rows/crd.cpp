// Operator crd_fwd: samples and stretches of their candidates shared out among the threads. Rows of
// a bank are read where they lie, each once a draw. A stretch's sums are added up in the order of
// the stretches: results are bitwise the same for any number of threads.

#include <cmath>
#include <tuple>
#include <vector>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

constexpr int64_t kStretch = 2048;  // candidates of a unit
constexpr int64_t kWidened = 64;    // rows held at once where a bank is not of the compute dtype

// samples [B, 1 + K]: int64 or int32, any strides.
struct Samples {
  const void* data;
  bool is_long;
  int64_t stride_b, stride_k;

  explicit Samples(const Tensor& a)
      : data(a.data_ptr()),
        is_long(a.scalar_type() == Scalar::Long),
        stride_b(a.stride(0)),
        stride_k(a.stride(1)) {}

  int64_t operator()(int64_t b, int64_t k) const {
    const int64_t at = b * stride_b + k * stride_k;
    return is_long ? static_cast<const int64_t*>(data)[at] : static_cast<const int32_t*>(data)[at];
  }
};

// Before the parallel section, whose threads then need not raise.
void check_samples(const Tensor& samples, int64_t rows) {
  const Samples row(samples);
  for (int64_t b = 0; b < samples.size(0); ++b)
    for (int64_t k = 0; k < samples.size(1); ++k)
      STD_TORCH_CHECK(row(b, k) >= 0 && row(b, k) < rows,
                      "crd_loss: samples must be between 0 and ", rows - 1,
                      ", the rows that the banks have, got ", row(b, k));
}

// One side: its anchors beside the other side's bank.
template <typename T>
struct CrdSide {
  Matrix anchor, bank;
  T log_h;
  bool needs_grad;
};

template <typename T>
struct Contrast {
  CrdSide<T> side[2];
  Samples sample;
  int64_t batch, negatives;
  T inverse_temperature;

  int64_t width() const { return side[0].anchor.columns; }
  int64_t stretches() const { return (negatives + kStretch - 1) / kStretch; }
  int64_t units() const { return 2 * batch * (1 + stretches()); }

  // Terms of a side's sample: unit 0 of its own row, the others of a stretch of negatives.
  double unit(int64_t index, T* slope) const;
};

template <typename T>
double Contrast<T>::unit(int64_t index, T* slope) const {
  const int64_t per_sample = 1 + stretches(), stretch = index % per_sample - 1;
  const int64_t b = index / per_sample % batch;
  const CrdSide<T>& of = side[index / per_sample / batch];
  std::vector<T> anchor(width()), rows(is_plain<T>(of.bank) ? 0 : kWidened * width());
  row_kernels<T>().widen[of.anchor.storage](of.anchor.at(b, 0), of.anchor.column_stride, width(),
                                            anchor.data());
  // derived: the term of the sample itself is softplus(-u), so that of a negative anchor.
  const bool own = stretch < 0;
  if (own)
    for (T& x : anchor) x = -x;
  int64_t begin = own ? 0 : 1 + stretch * kStretch;
  const int64_t end = own ? 1 : std::min(begin + kStretch, 1 + negatives);
  const int64_t at_once = is_plain<T>(of.bank) ? kStretch : kWidened;
  const T* candidate[kStretch];
  double sum = 0;
  for (; begin < end; begin += at_once) {
    const int64_t count = std::min(at_once, end - begin);
    for (int64_t i = 0; i < count; ++i)
      candidate[i] = is_plain<T>(of.bank)
                         ? static_cast<const T*>(of.bank.at(sample(b, begin + i), 0))
                         : rows.data() + i * width();
    if (!is_plain<T>(of.bank))
      for (int64_t i = 0; i < count; ++i)
        row_kernels<T>().widen[of.bank.storage](of.bank.at(sample(b, begin + i), 0),
                                                of.bank.column_stride, width(),
                                                rows.data() + i * width());
    sum += row_kernels<T>().crd.terms({anchor.data(), candidate, count, width(),
                                       inverse_temperature, own ? -of.log_h : of.log_h, slope});
  }
  return sum;
}

template <typename T>
std::tuple<Tensor, std::vector<Tensor>> forward(const Contrast<T>& contrast, const Tensor& like,
                                                double constant) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const int64_t units = contrast.units(), width = contrast.width(), batch = contrast.batch;
  const int64_t per_sample = 1 + contrast.stretches();
  row_kernels<T>();  // here, so that its error is not raised inside a thread
  std::vector<double> terms(units);
  std::vector<T> slopes(units * width);
  torch::stable::parallel_for(0, units, 1, [&](int64_t first, int64_t last) {
    for (int64_t index = first; index < last; ++index) {
      const bool needed = contrast.side[index / per_sample / batch].needs_grad;
      terms[index] = contrast.unit(index, needed ? &slopes[index * width] : nullptr);
    }
  });
  double sum = 0;
  for (const double of_unit : terms) sum += of_unit;
  Tensor loss = torch::stable::new_empty(like, std::vector<int64_t>{}, kDtype);
  *static_cast<T*>(loss.data_ptr()) = T(sum / double(batch) + constant);

  std::vector<Tensor> result;
  const double scale = double(contrast.inverse_temperature) / double(batch);
  for (int64_t side = 0; side < 2; ++side) {
    if (!contrast.side[side].needs_grad) continue;
    result.push_back(torch::stable::new_empty(like, {batch, width}, kDtype));
    T* const out = static_cast<T*>(result.back().data_ptr());
    for (int64_t b = 0; b < batch; ++b) {
      const T* const of_sample = &slopes[(side * batch + b) * per_sample * width];
      for (int64_t d = 0; d < width; ++d) {
        double slope = -double(of_sample[d]);
        for (int64_t part = 1; part < per_sample; ++part) slope += of_sample[part * width + d];
        out[b * width + d] = T(slope * scale);
      }
    }
  }
  return {loss, result};
}

// Schema and meaning of the arguments: amd_fused/losses/crd/operator.py, which has made float64 of
// log_normalizers and keeps banks of float64 away from embeddings that are not.
std::tuple<Tensor, std::vector<Tensor>> crd_fwd(Tensor student, Tensor teacher, Tensor student_bank,
                                                Tensor teacher_bank, Tensor samples,
                                                Tensor log_normalizers, Tensor numbers,
                                                std::vector<bool> needs_grad) {
  const double* const number = static_cast<const double*>(numbers.data_ptr());
  const double* const log_z = static_cast<const double*>(log_normalizers.data_ptr());
  const int64_t batch = samples.size(0), negatives = samples.size(1) - 1;
  const int64_t rows = student_bank.size(0);
  check_samples(samples, rows);
  const double noise = double(negatives) / double(rows), eps = number[1];
  auto run = [&](auto zero) {
    using T = decltype(zero);
    // derived: with u = log(h / (noise + eps)) the terms are softplus(-u) of the sample itself and
    // softplus(u) + log(1 + eps / noise) of a negative.
    const double shift = std::log(noise + eps);
    const Contrast<T> contrast{
        {{matrix_of(student), matrix_of(teacher_bank), T(log_z[0] + shift), needs_grad[0]},
         {matrix_of(teacher), matrix_of(student_bank), T(log_z[log_normalizers.stride(0)] + shift),
          needs_grad[1]}},
        Samples(samples),
        batch,
        negatives,
        T(1 / number[0])};
    return forward<T>(contrast, student, 2 * double(negatives) * std::log1p(eps / noise));
  };
  return any_double({student, teacher}) ? run(double{}) : run(float{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("crd_fwd_cpp", TORCH_BOX(&crd_fwd)); }

}  // namespace amd_fused
