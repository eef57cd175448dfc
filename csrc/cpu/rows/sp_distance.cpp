// Operator of the SP loss: the distance of two Gram matrices with normalised rows, and its
// gradients. [B, B] is little beside the features: rows are computed in float64, by no vectors of
// our own.

#include <tuple>
#include <vector>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

constexpr double kLeastNorm = 1e-12;  // amd_fused/losses/_common/norms.py

double power(double x, double p) { return p == 2 ? x * x : p == 1 ? x : std::pow(x, p); }

// A row of a Gram matrix, its norm and its direction. A row of zeros has none.
struct Row {
  std::vector<double> unit;
  double norm;
  bool zero, clamped;

  template <typename T>
  void read(const T* gram, int64_t length, double p) {
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < length; ++i) {
      const double size = std::fabs(double(gram[i]));
      largest = size > largest || std::isnan(size) ? size : largest;  // NaN stays
    }
    zero = largest == 0;
    // In units of the largest number, whose powers stay in the range of the dtype.
    for (int64_t i = 0; i < length && !zero; ++i)
      sum += power(std::fabs(double(gram[i])) / largest, p);
    norm = largest * (p == 2 ? std::sqrt(sum) : p == 1 ? sum : std::pow(sum, 1 / p));
    clamped = norm < kLeastNorm;
    // A norm past the largest number would make a row of 0, as if nothing were alike: NaN is heard.
    if (std::isinf(T(norm))) norm = std::numeric_limits<double>::quiet_NaN();
    if (clamped) norm = kLeastNorm;
    unit.resize(length);
    for (int64_t i = 0; i < length; ++i) unit[i] = zero ? 0 : double(gram[i]) / norm;
  }

  // derived: of a loss with the slopes d by the direction, (d_i - <d, unit> dn/dg_i) / n, n the
  // norm and dn/dg_i = sign(unit_i) |unit_i|^(p - 1).
  template <typename T>
  void write_gradient(const std::vector<double>& slopes, double sign, double p, T* gradient) const {
    double radial = 0;
    for (size_t i = 0; i < unit.size(); ++i) radial += slopes[i] * unit[i];
    if (clamped) radial = 0;
    for (size_t i = 0; i < unit.size(); ++i) {
      const double along =
          unit[i] == 0 ? 0 : std::copysign(power(std::fabs(unit[i]), p - 1), unit[i]);
      gradient[i] = T(zero ? 0 : sign * (slopes[i] - radial * along) / norm);
    }
  }
};

template <typename T>
std::tuple<Tensor, std::vector<Tensor>> distance(const Tensor& gram_s, const Tensor& gram_t,
                                                 double p, const std::vector<bool>& needs_grad) {
  const int64_t batch = gram_s.size(0);
  Tensor loss = torch::stable::new_empty(gram_s, {});
  std::vector<Tensor> gradients;
  const T* const gram[2] = {static_cast<const T*>(gram_s.data_ptr()),
                            static_cast<const T*>(gram_t.data_ptr())};
  T* gradient[2] = {};
  for (int side = 0; side < 2; ++side)
    if (needs_grad[side]) {
      gradients.push_back(torch::stable::new_empty(gram_s, {batch, batch}));
      gradient[side] = static_cast<T*>(gradients.back().data_ptr());
    }
  std::vector<double> sums(batch);
  torch::stable::parallel_for(0, batch, rows_of_a_unit(batch), [&](int64_t first, int64_t last) {
    Row row[2];
    std::vector<double> slopes(batch);
    for (int64_t r = first; r < last; ++r) {
      for (int side = 0; side < 2; ++side) row[side].read(gram[side] + r * batch, batch, p);
      for (int64_t i = 0; i < batch; ++i) {
        const double difference = row[0].unit[i] - row[1].unit[i];
        sums[r] += difference * difference;
        slopes[i] = 2 * difference / (double(batch) * double(batch));
      }
      for (int side = 0; side < 2; ++side)
        if (gradient[side])
          row[side].write_gradient(slopes, side == 0 ? 1 : -1, p, gradient[side] + r * batch);
    }
  });
  double sum = 0;
  for (double of_row : sums) sum += of_row;
  *static_cast<T*>(loss.data_ptr()) = T(sum / (double(batch) * double(batch)));
  return {loss, gradients};
}

// Schema and meaning of the arguments: amd_fused/losses/sp/operator.py.
std::tuple<Tensor, std::vector<Tensor>> sp_distance(Tensor gram_s, Tensor gram_t, double norm_p,
                                                    std::vector<bool> needs_grad) {
  const Scalar dtype = gram_s.scalar_type();
  STD_TORCH_CHECK((dtype == Scalar::Float || dtype == Scalar::Double) &&
                      gram_t.scalar_type() == dtype && gram_s.is_contiguous() &&
                      gram_t.is_contiguous(),
                  "sp_distance: Gram matrices must be contiguous, both float32 or both float64");
  return dtype == Scalar::Double ? distance<double>(gram_s, gram_t, norm_p, needs_grad)
                                 : distance<float>(gram_s, gram_t, norm_p, needs_grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("sp_distance_cpp", TORCH_BOX(&sp_distance)); }

}  // namespace amd_fused
