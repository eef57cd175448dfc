// Operator afds_fwd: a channel is gone through twice, for its norms and for the distance of what
// they make of it. The second time it lies in a cache. VID's distance has no norms.

#include <cmath>
#include <optional>
#include <tuple>

#include "afds_tiles.h"

namespace amd_fused {
namespace {

int64_t cached_channels(int64_t positions) {
  const int64_t fitting = kBlockElements / positions / kLeastChannels * kLeastChannels;
  return std::min(kMostChannels, std::max(kLeastChannels, fitting));
}

// A channel of zeros has no direction: it stays zeros, without gradient. Without an eps channels
// are compared as they are, and their norms count as 0.
double inverse(double norm, std::optional<double> eps) {
  return !eps ? 1 : norm == 0 ? 0 : 1 / (norm + *eps);
}

double by(double norm, double x) { return norm == 0 ? 0 : x / norm; }

// The two sides of a call and what becomes of each channel.
template <typename T>
struct Forward {
  MapRows s, t;
  std::optional<double> eps;
  T* distance;      // [B, C]
  AfdsRow<T>* row;  // [B, C]
  const AfdsKernels<T>& kernel = row_kernels<T>().afds;

  int64_t positions() const { return s.x.positions(); }

  void settle(int64_t index, double norm_s, double norm_t, AfdsSums sums) const {
    distance[index] = T(sums.first / double(positions()));
    row[index].own_s = T(by(norm_s, sums.second));
    // derived: (y - x).y = |x - y|^2 - (x - y).x.
    row[index].own_t = T(by(norm_t, sums.first - sums.second));
  }

  void channel(int64_t index) const {
    const int64_t b = index / s.x.channels, c = index % s.x.channels, count = positions();
    alignas(64) T buffer[2][kTile];
    const T* tile[2];
    auto read = [&](int64_t begin, int64_t length) {
      tile[0] = s.read(b, c, begin, length, buffer[0]);
      tile[1] = t.read(b, c, begin, length, buffer[1]);
    };
    AfdsSums squares{};
    for (int64_t begin = 0; eps && begin < count; begin += kTile) {
      const int64_t length = std::min(kTile, count - begin);
      read(begin, length);
      const AfdsSums found = kernel.squares(tile[0], tile[1], length);
      squares.first += found.first;
      squares.second += found.second;
    }
    const double norm_s = norm_of(squares.first), norm_t = norm_of(squares.second);
    row[index].inverse_s = T(inverse(norm_s, eps));
    row[index].inverse_t = T(inverse(norm_t, eps));
    AfdsSums sums{};
    for (int64_t begin = 0; begin < count; begin += kTile) {
      const int64_t length = std::min(kTile, count - begin);
      if (count > kTile || !eps) read(begin, length);
      const AfdsSums found =
          kernel.distances(tile[0], tile[1], length, row[index].inverse_s, row[index].inverse_t);
      sums.first += found.first;
      sums.second += found.second;
    }
    settle(index, norm_s, norm_t, sums);
  }

  void pixels(int64_t b, int64_t first, int64_t channels) const;
};

template <typename T>
void Forward<T>::pixels(int64_t b, int64_t first, int64_t channels) const {
  alignas(64) T sums[4][kMostChannels] = {}, inverses[2][kMostChannels] = {};
  if (eps)
    over_pixels<T>(s, t, b, first, channels, [&](const AfdsPixels<T>& tile, int64_t) {
      kernel.pixel_squares(tile, sums[0], sums[1]);
    });
  AfdsRow<T>* const rows = row + b * s.x.channels + first;
  for (int64_t c = 0; c < channels; ++c) {
    rows[c].inverse_s = inverses[0][c] = T(inverse(norm_of(sums[0][c]), eps));
    rows[c].inverse_t = inverses[1][c] = T(inverse(norm_of(sums[1][c]), eps));
  }
  over_pixels<T>(s, t, b, first, channels, [&](const AfdsPixels<T>& tile, int64_t) {
    kernel.pixel_distances(tile, inverses[0], inverses[1], sums[2], sums[3]);
  });
  for (int64_t c = 0; c < channels; ++c)
    settle(b * s.x.channels + first + c, norm_of(sums[0][c]), norm_of(sums[1][c]),
           {double(sums[2][c]), double(sums[3][c])});
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher,
                                   std::optional<double> eps) {
  constexpr Scalar kDtype = sizeof(T) == 8 ? Scalar::Double : Scalar::Float;
  const int64_t batch = student.size(0), channels = student.size(1);
  Tensor distance = torch::stable::new_empty(student, {batch, channels}, kDtype);
  Tensor numbers = torch::stable::new_empty(student, {batch, channels, kAfdsRowNumbers}, kDtype);
  const Forward<T> pass{MapRows(student), MapRows(teacher), eps,
                        static_cast<T*>(distance.data_ptr()),
                        static_cast<AfdsRow<T>*>(numbers.data_ptr())};
  if (pass.s.x.layout == kPixels && pass.t.x.layout == kPixels)
    over_blocks(pass.s.x, batch, cached_channels(pass.positions()),
                [&](int64_t b, int64_t first, int64_t count) { pass.pixels(b, first, count); });
  else
    over_channels(pass.s.x, batch, [&](int64_t index) { pass.channel(index); });
  return {distance, numbers};
}

// Schema and meaning of the arguments: amd_fused/losses/afds/operator.py.
std::tuple<Tensor, Tensor> afds_fwd(Tensor student, Tensor teacher, std::optional<double> eps) {
  return any_double({student, teacher}) ? forward<double>(student, teacher, eps)
                                        : forward<float>(student, teacher, eps);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("afds_fwd_cpp", TORCH_BOX(&afds_fwd)); }

}  // namespace amd_fused
