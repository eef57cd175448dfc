// Forward operator of KD and its spherical form: two passes over each row, which a core's cache
// holds between them; the extents (maximum and norm) first, then the sums that make the KL
// divergence. Sums of a tile are added in double precision and in the order of the tiles: results
// are bitwise the same for any number of threads.

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

// A norm at or below this counts as 0: the row's softmax is then uniform and its gradient 0.
constexpr double kNormFloor = 1e-12;  // NORM_FLOOR of amd_fused/reference/kd.py

struct Options {
  double temperature;
  LogitNorm norm;
  std::optional<double> multiplier;
};

// The extent of two stretches together (Chan, Golub, LeVeque 1979).
KdExtent joined(const KdExtent& a, int64_t count_a, const KdExtent& b, int64_t count_b) {
  const double count = double(count_a + count_b), apart = b.mean - a.mean;
  return {b.max > a.max ? b.max : a.max, a.mean + apart * (double(count_b) / count),
          a.square + b.square + apart * apart * (double(count_a) * double(count_b) / count)};
}

struct Norm {
  double value;    // 0 where it counts as 0
  double divisor;  // norm^2 = square / divisor
};

Norm norm_of(const KdExtent& extent, int64_t columns, LogitNorm norm) {
  const double divisor = norm == kStd ? double(columns - 1) : 1.0;
  const double value = std::sqrt(extent.square / divisor);
  // Squares past the kernels' range make it Inf: as NaN it is heard.
  return {value <= kNormFloor ? 0.0 : value - (value - value), divisor};
}

double ratio(double x, double norm) { return norm == 0 ? 0.0 : x / norm; }

// One row: its KL divergence, and what the backward pass needs in `row`.
template <typename T>
double divergence(const Matrix& z_s, const Matrix& z_t, int64_t b, const Options& options,
                  bool share_tiles, std::vector<KdExtent>& extents, std::vector<KdSums>& sums,
                  KdRow<T>* row) {
  const KdKernels<T>& kernel = row_kernels<T>().kd;
  const int64_t columns = z_s.columns;
  over_tiles(columns, share_tiles, [&](int64_t tile, int64_t begin, int64_t count) {
    alignas(64) T buffer[2][kTile];
    kernel.extents(read_tile(z_s, b, begin, count, buffer[0]),
                   read_tile(z_t, b, begin, count, buffer[1]), count, options.norm,
                   &extents[2 * tile]);
  });
  KdExtent s = extents[0], t = extents[1];
  for (int64_t tile = 1; tile < tiles_of(columns); ++tile) {
    const int64_t before = tile * kTile, count = std::min(kTile, columns - before);
    s = joined(s, before, extents[2 * tile], count);
    t = joined(t, before, extents[2 * tile + 1], count);
  }

  const bool spherical = options.norm != kNoNorm;
  const double softening = 1 / options.temperature;
  const Norm n_s = norm_of(s, columns, options.norm), n_t = norm_of(t, columns, options.norm);
  double a_s = softening, a_t = softening;
  if (spherical) {
    a_s *= ratio(options.multiplier.value_or(n_t.value), n_s.value);
    if (options.multiplier) a_t *= ratio(*options.multiplier, n_t.value);
  }
  *row = {};
  row->max_s = T(s.max);
  row->max_t = T(t.max);
  row->scale_s = T(a_s / kLn2);
  row->scale_t = T(a_t / kLn2);

  over_tiles(columns, share_tiles, [&](int64_t tile, int64_t begin, int64_t count) {
    alignas(64) T buffer[2][kTile];
    sums[tile] = kernel.sums(read_tile(z_s, b, begin, count, buffer[0]),
                             read_tile(z_t, b, begin, count, buffer[1]), count, *row, spherical);
  });
  KdSums sum{};
  for (int64_t tile = 0; tile < tiles_of(columns); ++tile) {
    sum.exp_u += sums[tile].exp_u;
    sum.exp_v += sums[tile].exp_v;
    sum.gap += sums[tile].gap;
    sum.exp_u_x += sums[tile].exp_u_x;
    sum.exp_v_x += sums[tile].exp_v_x;
    sum.exp_v_y += sums[tile].exp_v_y;
    sum.exp_v_y_gap += sums[tile].exp_v_y_gap;
  }
  const double gap = sum.gap / sum.exp_v;
  // The kernels' powers may be anything for NaN; the gap is NaN wherever a logit is.
  const bool is_nan = std::isnan(gap);
  row->inverse_s = T(is_nan ? gap : 1 / sum.exp_u);
  row->inverse_t = T(is_nan ? gap : 1 / sum.exp_v);
  row->gap = T(gap);  // exactly v - u of the one class that a hard teacher sees
  if (spherical) {
    // derived: dKL/da_s = sum (q - p) x, and da_s/dz_s = -a_s / n_s^2 (z_s - mean) / divisor.
    const double by_a_s = sum.exp_u_x / sum.exp_u - sum.exp_v_x / sum.exp_v;
    row->coefficient_s = T(-by_a_s * ratio(a_s, n_s.value * n_s.value) / n_s.divisor);
    row->mean_s = T(s.mean);
    // derived: the teacher's norm is in a_t, or, as the sample's radius, in a_s.
    const double by_a_t = kLn2 * (sum.exp_v_y_gap - gap * sum.exp_v_y) / sum.exp_v;
    const double by_norm = options.multiplier ? -by_a_t * a_t : by_a_s * a_s;
    row->coefficient_t = T(ratio(by_norm, n_t.value * n_t.value) / n_t.divisor);
    row->mean_t = T(t.mean);
  }
  // derived: sum p (v - u) - (log sum e^v - log sum e^u).
  return kLn2 * gap - std::log(sum.exp_v / sum.exp_u);
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher,
                                   const Options& options) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  static_assert(sizeof(KdRow<T>) == kKdRowNumbers * sizeof(T), "a row of the tensor `rows`");
  row_kernels<T>();  // here, so that its error is not raised inside a thread
  const Matrix z_s = matrix_of(student), z_t = matrix_of(teacher);
  const int64_t batch = z_s.rows;
  Tensor rows = torch::stable::new_empty(student, {batch, kKdRowNumbers}, kDtype);
  KdRow<T>* row = static_cast<KdRow<T>*>(rows.data_ptr());
  std::vector<double> kl(batch);
  over_rows(batch, z_s.columns, [&](int64_t first, int64_t last, bool share_tiles) {
    std::vector<KdExtent> extents(2 * tiles_of(z_s.columns));
    std::vector<KdSums> sums(tiles_of(z_s.columns));
    for (int64_t b = first; b < last; ++b)
      kl[b] = divergence(z_s, z_t, b, options, share_tiles, extents, sums, row + b);
  });
  double sum = 0;
  for (double of_row : kl) sum += of_row;
  Tensor loss = torch::stable::new_empty(student, std::vector<int64_t>{}, kDtype);
  *static_cast<T*>(loss.data_ptr()) = T(options.temperature * options.temperature * sum / batch);
  return {loss, rows};
}

// Schema and meaning of the arguments: amd_fused/losses/kd/operator.py, which is the only caller
// and has checked them.
std::tuple<Tensor, Tensor> kd_fwd(Tensor student, Tensor teacher, Tensor numbers, int64_t norm,
                                  bool fixed_radius) {
  const double* number = static_cast<const double*>(numbers.data_ptr());
  const Options options{number[0], LogitNorm(norm),
                        fixed_radius ? std::optional<double>(number[1]) : std::nullopt};
  return any_double({student, teacher}) ? forward<double>(student, teacher, options)
                                        : forward<float>(student, teacher, options);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("kd_fwd_cpp", TORCH_BOX(&kd_fwd)); }

}  // namespace amd_fused
