// Operators of the ND loss: samples shared out among the threads.

#include <tuple>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

// Labels are checked before the parallel section, whose threads then need not raise.
void check_labels(const Tensor& target, int64_t classes) {
  const int64_t* label = static_cast<const int64_t*>(target.data_ptr());
  for (int64_t b = 0; b < target.size(0); ++b) {
    const int64_t found = label[b * target.stride(0)];
    STD_TORCH_CHECK(found >= 0 && found < classes, "nd_loss: target must be between 0 and ",
                    classes - 1, ", the classes that class_means has, got ", found);
  }
}

double inverse(double norm) { return norm == 0 ? 0 : 1 / norm; }

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher,
                                   const Tensor& target, const Tensor& class_means) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const Matrix s = matrix_of(student), t = matrix_of(teacher), m = matrix_of(class_means);
  Tensor loss = torch::stable::new_empty(student, {s.rows}, kDtype);
  Tensor slopes = torch::stable::new_empty(student, {s.rows, 3}, kDtype);
  T* const losses = static_cast<T*>(loss.data_ptr());
  T* const slope = static_cast<T*>(slopes.data_ptr());
  const int64_t* const label = static_cast<const int64_t*>(target.data_ptr());
  const int64_t label_stride = target.stride(0);
  const NdKernels<T>& kernel = row_kernels<T>().nd;
  const int64_t unit = rows_of_a_unit(s.columns);
  torch::stable::parallel_for(0, s.rows, unit, [&](int64_t first, int64_t last) {
    T buffer[3][kTile];
    for (int64_t b = first; b < last; ++b) {
      NdSums total{};
      for (int64_t begin = 0; begin < s.columns; begin += kTile) {
        const int64_t count = std::min(kTile, s.columns - begin);
        const NdSums sums = kernel.sums(
            read_tile(s, b, begin, count, buffer[0]), read_tile(t, b, begin, count, buffer[1]),
            read_tile(m, label[b * label_stride], begin, count, buffer[2]), count);
        total.ss += sums.ss;
        total.tt += sums.tt;
        total.mm += sums.mm;
        total.sm += sums.sm;
      }
      const double norm_s = norm_of(total.ss), norm_t = norm_of(total.tt);
      // A tie is the student's; NaN stays NaN.
      const bool students = norm_s >= norm_t || std::isnan(norm_s);
      const double per_longer = inverse(students ? norm_s : norm_t);
      const double per_mean = inverse(norm_of(total.mm));
      const double cosine = total.sm * per_mean * per_longer;
      // derived: of 1 - s.e / max(|s|, |t|) by s and t, as multiples of the mean, of s and of t.
      const double own = cosine * per_longer * per_longer;
      losses[b] = T(1 - cosine);
      slope[3 * b] = T(-per_mean * per_longer);
      slope[3 * b + 1] = T(students ? own : 0);
      slope[3 * b + 2] = T(students ? 0 : own);
    }
  });
  return {loss, slopes};
}

// out = upstream (by_a a + by_b b), rounded to the output's dtype; b may be null.
template <typename T>
void write_combination(const Matrix& out, int64_t row, int64_t begin, int64_t count, const T* a,
                       T by_a, const T* b, T by_b, T* buffer) {
  const RowKernels<T>& kernel = row_kernels<T>();
  T* const to = is_plain<T>(out) ? static_cast<T*>(out.at(row, begin)) : buffer;
  kernel.nd.combine(a, by_a, b, by_b, count, to);
  if (to == buffer)
    kernel.narrow[out.storage](buffer, count, out.at(row, begin), out.column_stride, false);
}

template <typename T>
void backward(const Tensor& grad_loss, const Matrix& s, const Matrix& t, const Tensor& target,
              const Matrix& m, const Tensor& slopes, const Matrix* grad_s, const Matrix* grad_t) {
  const T* const upstream = static_cast<const T*>(grad_loss.data_ptr());
  const T* const slope = static_cast<const T*>(slopes.data_ptr());
  const int64_t* const label = static_cast<const int64_t*>(target.data_ptr());
  const int64_t upstream_stride = grad_loss.stride(0), label_stride = target.stride(0);
  const int64_t unit = rows_of_a_unit(s.columns);
  torch::stable::parallel_for(0, s.rows, unit, [&](int64_t first, int64_t last) {
    T buffer[3][kTile];
    for (int64_t b = first; b < last; ++b) {
      const T scale = upstream[b * upstream_stride];
      const T* by = slope + 3 * b;
      for (int64_t begin = 0; begin < s.columns; begin += kTile) {
        const int64_t count = std::min(kTile, s.columns - begin);
        if (grad_s)
          write_combination<T>(*grad_s, b, begin, count,
                               read_tile(m, label[b * label_stride], begin, count, buffer[0]),
                               by[0] * scale, read_tile(s, b, begin, count, buffer[1]),
                               by[1] * scale, buffer[2]);
        if (grad_t)
          write_combination<T>(*grad_t, b, begin, count, read_tile(t, b, begin, count, buffer[0]),
                               by[2] * scale, nullptr, T(0), buffer[2]);
      }
    }
  });
}

// Schemas and meaning of the arguments: amd_fused/losses/nd/operator.py.
std::tuple<Tensor, Tensor> nd_fwd(Tensor student, Tensor teacher, Tensor target,
                                  Tensor class_means) {
  check_labels(target, class_means.size(0));
  STD_TORCH_CHECK(any_double({student, teacher}) || !any_double({class_means}),
                  "nd_fwd: class_means must not be float64 unless student or teacher is");
  return any_double({student, teacher}) ? forward<double>(student, teacher, target, class_means)
                                        : forward<float>(student, teacher, target, class_means);
}

std::vector<Tensor> nd_bwd(Tensor grad_loss, Tensor student, Tensor teacher, Tensor target,
                           Tensor class_means, Tensor slopes, std::vector<bool> needs_grad) {
  STD_TORCH_CHECK(slopes.is_contiguous() && slopes.scalar_type() == grad_loss.scalar_type(),
                  "nd_bwd: slopes must be contiguous and of the dtype of grad_loss");
  check_labels(target, class_means.size(0));
  std::vector<Tensor> result;
  Matrix gradient[2];
  for (int side = 0; side < 2; ++side)
    if (needs_grad[side]) {
      result.push_back(torch::stable::empty_like(side == 0 ? student : teacher));
      gradient[side] = matrix_of(result.back());
    }
  auto run = [&](auto zero) {
    using T = decltype(zero);
    backward<T>(grad_loss, matrix_of(student), matrix_of(teacher), target, matrix_of(class_means),
                slopes, needs_grad[0] ? &gradient[0] : nullptr,
                needs_grad[1] ? &gradient[1] : nullptr);
  };
  if (grad_loss.scalar_type() == Scalar::Double)
    run(double{});
  else
    run(float{});
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) {
  m.impl("nd_fwd_cpp", TORCH_BOX(&nd_fwd));
  m.impl("nd_bwd_cpp", TORCH_BOX(&nd_bwd));
}

}  // namespace amd_fused
