// Backward operator of KD and its spherical form: one pass, element by element, from the logits and
// the few numbers of each row that the forward pass left.

#include <vector>

#include "gradient_memory.h"
#include "rows_tensors.h"

namespace amd_fused {
namespace {

// Where the gradient of one side goes: in place where it lies as T's, else by way of a buffer.
template <typename T>
struct Output {
  const Matrix* matrix;  // null: not wanted
  bool in_place, past_cache;

  T* open(int64_t row, int64_t begin, T* buffer) const {
    if (!matrix) return nullptr;
    return in_place ? static_cast<T*>(matrix->at(row, begin)) : buffer;
  }
  void close(int64_t row, int64_t begin, int64_t count, const T* buffer) const {
    if (matrix && !in_place)
      row_kernels<T>().narrow[matrix->storage](buffer, count, matrix->at(row, begin),
                                               matrix->column_stride, past_cache);
  }
};

template <typename T>
Output<T> output(const Matrix* matrix) {
  if (!matrix) return {nullptr, false, false};
  const bool past_cache = matrix->rows * matrix->columns * matrix->element > kPastCacheBytes;
  return {matrix, is_plain<T>(*matrix) && !past_cache, past_cache};
}

template <typename T>
void backward(T weight, const Matrix& z_s, const Matrix& z_t, const KdRow<T>* row,
              const Output<T>& d_z_s, const Output<T>& d_z_t) {
  const KdKernels<T>& kernel = row_kernels<T>().kd;
  over_rows(z_s.rows, z_s.columns, [&](int64_t first, int64_t last, bool share_tiles) {
    for (int64_t b = first; b < last; ++b)
      over_tiles(z_s.columns, share_tiles, [&](int64_t, int64_t begin, int64_t count) {
        alignas(64) T buffer[4][kTile];
        kernel.gradients(read_tile(z_s, b, begin, count, buffer[0]),
                         read_tile(z_t, b, begin, count, buffer[1]), count, row[b], weight,
                         d_z_s.open(b, begin, buffer[2]), d_z_t.open(b, begin, buffer[3]));
        d_z_s.close(b, begin, count, buffer[2]);
        d_z_t.close(b, begin, count, buffer[3]);
      });
  });
}

// Schema and meaning of the arguments: amd_fused/losses/kd/operator.py.
std::vector<Tensor> kd_bwd(Tensor grad_loss, Tensor student, Tensor teacher, Tensor rows,
                           Tensor numbers, bool student_grad, bool teacher_grad) {
  const double temperature = *static_cast<const double*>(numbers.data_ptr());
  STD_TORCH_CHECK(rows.is_contiguous() && rows.scalar_type() == grad_loss.scalar_type() &&
                      rows.size(1) == kKdRowNumbers,
                  "kd_bwd: rows must be the tensor that kd_fwd returned");
  const Matrix z_s = matrix_of(student), z_t = matrix_of(teacher);
  std::vector<Tensor> gradients;
  if (student_grad) gradients.push_back(torch::stable::empty_like(student));
  if (teacher_grad) gradients.push_back(torch::stable::empty_like(teacher));
  std::vector<Matrix> out;
  for (const Tensor& gradient : gradients) out.push_back(matrix_of(gradient));
  const Matrix* d_z_s = student_grad ? &out.front() : nullptr;
  const Matrix* d_z_t = teacher_grad ? &out.back() : nullptr;
  auto run = [&](auto zero) {
    using T = decltype(zero);
    const double upstream = *static_cast<const T*>(grad_loss.data_ptr());
    backward<T>(T(upstream * temperature * temperature / double(z_s.rows)), z_s, z_t,
                static_cast<const KdRow<T>*>(rows.data_ptr()), output<T>(d_z_s), output<T>(d_z_t));
  };
  if (grad_loss.scalar_type() == Scalar::Double)
    run(double{});
  else
    run(float{});
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("kd_bwd_cpp", TORCH_BOX(&kd_bwd)); }

}  // namespace amd_fused
