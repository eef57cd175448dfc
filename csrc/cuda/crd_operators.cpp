// Operator of the CRD loss by rows, two launches. Bytes as in the Triton kernel,
// amd_fused/losses/crd/triton.py, but that the samples' own rows are read here too.

#include <cmath>
#include <tuple>
#include <vector>

#include "amd_plan.h"
#include "amd_tensors.h"
#include "crd_args.h"
#include "device.h"

namespace amd_fused {
namespace {

CrdRows rows_of(const Tensor& a) {
  const Storage storage = storage_of(a);
  const int64_t itemsize = itemsize_of(storage), width = a.size(1);
  const bool whole = width * itemsize % 16 == 0 && a.stride(0) * itemsize % 16 == 0;
  const bool aligned = reinterpret_cast<uintptr_t>(a.data_ptr()) % 16 == 0;
  return {a.data_ptr(), a.stride(0), a.stride(1), storage, whole && aligned && a.stride(1) == 1};
}

template <typename T>
std::tuple<Tensor, std::vector<Tensor>> forward(const Tensor& student, const Tensor& teacher,
                                                const Tensor& student_bank,
                                                const Tensor& teacher_bank, const Tensor& samples,
                                                const Tensor& log_normalizers,
                                                const Tensor& numbers,
                                                const std::vector<bool>& needs_grad) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const OnDevice device(student);
  const double* const number = static_cast<const double*>(numbers.data_ptr());
  const double temperature = number[0], eps = number[1];
  const int64_t batch = samples.size(0), negatives = samples.size(1) - 1;
  const int64_t width = student.size(1), stretches = ceil_div(1 + negatives, kCrdStretch);
  const int64_t rows = student_bank.size(0);
  const double noise = double(negatives) / double(rows);

  Tensor loss = torch::stable::new_empty(student, std::vector<int64_t>{}, kDtype);
  Tensor terms = torch::stable::new_empty(student, {2, batch, stretches}, kDtype);
  CrdArgs<T> args{};
  args.side[0] = {rows_of(student), rows_of(teacher_bank), nullptr, nullptr};
  args.side[1] = {rows_of(teacher), rows_of(student_bank), nullptr, nullptr};
  std::vector<Tensor> gradients, slopes;
  for (int side = 0; side < 2; ++side) {
    if (!needs_grad[side]) continue;
    gradients.push_back(torch::stable::new_empty(student, {batch, width}, kDtype));
    slopes.push_back(torch::stable::new_empty(student, {batch, stretches, width}, kDtype));
    args.side[side].gradient = static_cast<T*>(gradients.back().data_ptr());
    args.side[side].slopes = static_cast<T*>(slopes.back().data_ptr());
  }
  args.samples = samples.data_ptr();
  args.stride_b = samples.stride(0);
  args.stride_k = samples.stride(1);
  args.long_samples = samples.scalar_type() == Scalar::Long;
  args.log_normalizers = static_cast<const double*>(log_normalizers.data_ptr());
  args.stride_z = log_normalizers.stride(0);
  args.terms = static_cast<T*>(terms.data_ptr());
  args.loss = static_cast<T*>(loss.data_ptr());
  args.rows = rows;
  args.batch = batch;
  args.candidates = int32_t(1 + negatives);
  args.width = int32_t(width);
  args.stretches = int32_t(stretches);
  args.inverse_temperature = T(1 / temperature);
  // derived: with u = log(h / (noise + eps)) the terms are softplus(-u) of the sample itself and
  // softplus(u) + log(1 + eps / noise) of a negative.
  args.shift = std::log(noise + eps);
  args.constant = 2 * double(negatives) * std::log1p(eps / noise);
  args.scale = 1 / (temperature * double(batch));

  launch_crd_forward(device.grid(2 * batch * stretches, kCrdThreads, crd_shared_bytes<T>()), args);
  // The loss, and a thread for each number of the gradients.
  const int64_t written = int64_t(gradients.size()) * batch * width;
  launch_crd_sums(device.grid(1 + ceil_div(written, kCrdThreads), kCrdThreads,
                              kCrdThreads / 32 * int(sizeof(double))),
                  args);
  return {loss, gradients};
}

// Schema and meaning of the arguments: amd_fused/losses/crd/operator.py, which has made float64 of
// log_normalizers and keeps banks of float64 away from embeddings that are not. numbers are on the
// CPU.
std::tuple<Tensor, std::vector<Tensor>> crd_fwd(Tensor student, Tensor teacher, Tensor student_bank,
                                                Tensor teacher_bank, Tensor samples,
                                                Tensor log_normalizers, Tensor numbers,
                                                std::vector<bool> needs_grad) {
  const auto run = any_double({student, teacher}) ? forward<double> : forward<float>;
  return run(student, teacher, student_bank, teacher_bank, samples, log_normalizers, numbers,
             needs_grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, AMD_DISPATCH_KEY, m) {
  m.impl("crd_fwd_cuda", TORCH_BOX(&crd_fwd));
}

}  // namespace amd_fused
