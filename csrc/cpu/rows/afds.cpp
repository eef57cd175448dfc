// Operators of the AFDS loss: channels of samples shared out among the threads.
//
// A channel is gone through twice, for its norms and for the distance of what they make of it. The
// second time it lies in a cache: where positions follow each other in memory a channel is taken at
// a time, where channels do (channels_last) a block of them.

#include <cmath>
#include <limits>
#include <tuple>

#include "gradient_memory.h"
#include "map_rows.h"

namespace amd_fused {
namespace {

// Pixels that one kernel call sees: their sums in T stay short.
constexpr int64_t kGroup = 32;
// Channels of a block: whole cache lines. Forward, few enough for all positions of both sides to
// stay in a cache of the second level.
constexpr int64_t kLeastChannels = 16, kMostChannels = 128;
constexpr int64_t kBlockElements = 1 << 18;

int64_t cached_channels(int64_t positions) {
  const int64_t fitting = kBlockElements / positions / kLeastChannels * kLeastChannels;
  return std::min(kMostChannels, std::max(kLeastChannels, fitting));
}

// Of a sum of squares; Inf becomes NaN, which is heard.
double norm_of(double square_sum) {
  const double norm = std::sqrt(square_sum);
  return std::isinf(norm) ? std::numeric_limits<double>::quiet_NaN() : norm;
}

// A channel of zeros has no direction: it stays zeros, without gradient.
double inverse(double norm, double eps) { return norm == 0 ? 0 : 1 / (norm + eps); }

double by(double norm, double x) { return norm == 0 ? 0 : x / norm; }

// The two sides of a call and what becomes of each channel.
template <typename T>
struct Forward {
  MapRows s, t;
  double eps;
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
    for (int64_t begin = 0; begin < count; begin += kTile) {
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
      if (count > kTile) read(begin, length);
      const AfdsSums found =
          kernel.distances(tile[0], tile[1], length, row[index].inverse_s, row[index].inverse_t);
      sums.first += found.first;
      sums.second += found.second;
    }
    settle(index, norm_s, norm_t, sums);
  }

  void pixels(int64_t b, int64_t first, int64_t channels) const;
};

// Pixels [begin, begin + count) of a block of channels as a tile of T.
template <typename T>
const T* read_pixels(const MapRows& a, int64_t b, int64_t first, int64_t channels, int64_t begin,
                     int64_t count, T* buffer, int64_t* stride) {
  if (a.x.storage == (sizeof(T) == 8 ? kFloat64 : kFloat32)) {
    *stride = a.x.pixel_stride();
    return reinterpret_cast<const T*>(a.at(b, first, begin));
  }
  *stride = kMostChannels;
  for (int64_t i = 0; i < count; ++i)
    row_kernels<T>().widen[a.x.storage](a.at(b, first, begin + i), 1, channels,
                                        buffer + i * kMostChannels);
  return buffer;
}

// Runs f(pixels, begin) over the groups of pixels of a block of channels.
template <typename T, typename F>
void over_pixels(const MapRows& s, const MapRows& t, int64_t b, int64_t first, int64_t channels,
                 const F& f) {
  alignas(64) T buffer[2][kGroup * kMostChannels];
  for (int64_t begin = 0; begin < s.x.positions(); begin += kGroup) {
    AfdsPixels<T> pixels{};
    pixels.positions = std::min(kGroup, s.x.positions() - begin);
    pixels.channels = channels;
    pixels.s =
        read_pixels<T>(s, b, first, channels, begin, pixels.positions, buffer[0], &pixels.stride_s);
    pixels.t =
        read_pixels<T>(t, b, first, channels, begin, pixels.positions, buffer[1], &pixels.stride_t);
    f(pixels, begin);
  }
}

template <typename T>
void Forward<T>::pixels(int64_t b, int64_t first, int64_t channels) const {
  alignas(64) T sums[4][kMostChannels] = {}, inverses[2][kMostChannels] = {};
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

// Runs f(sample, first channel, channels) over the blocks of `width` channels of all samples.
template <typename F>
void over_blocks(const Features& x, int64_t batch, int64_t width, const F& f) {
  const int64_t blocks = (x.channels + width - 1) / width;
  const int64_t least = std::max<int64_t>(1, kUnitElements / (width * x.positions()));
  torch::stable::parallel_for(0, batch * blocks, least, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit % blocks * width;
      f(unit / blocks, first, std::min(width, x.channels - first));
    }
  });
}

template <typename F>
void over_channels(const Features& x, int64_t batch, const F& f) {
  torch::stable::parallel_for(0, batch * x.channels, rows_of_a_unit(x.positions()),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t index = begin; index < end; ++index) f(index);
                              });
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& student, const Tensor& teacher, double eps) {
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

// Where the gradient of one side goes; in place where it lies as T's.
template <typename T>
struct Output {
  std::optional<MapRows> map;
  bool in_place, past_cache;
};

template <typename T>
struct Backward {
  MapRows s, t;
  const T* upstream;  // [B, C]
  int64_t stride_b, stride_c;
  const AfdsRow<T>* row;
  Output<T> out[2];
  const AfdsKernels<T>& kernel = row_kernels<T>().afds;

  // derived: of mean (x - y)^2, as afds_rows.h has it.
  T scale(int64_t b, int64_t c) const {
    return T(2) / T(s.x.positions()) * upstream[b * stride_b + c * stride_c];
  }

  void channel(int64_t index) const {
    const int64_t b = index / s.x.channels, c = index % s.x.channels, count = s.x.positions();
    alignas(64) T buffer[4][kTile];
    for (int64_t begin = 0; begin < count; begin += kTile) {
      const int64_t length = std::min(kTile, count - begin);
      T* to[2];
      for (int side = 0; side < 2; ++side)
        to[side] = !out[side].map       ? nullptr
                   : out[side].in_place ? reinterpret_cast<T*>(out[side].map->at(b, c, begin))
                                        : buffer[2 + side];
      kernel.gradients(s.read(b, c, begin, length, buffer[0]),
                       t.read(b, c, begin, length, buffer[1]), length, row[index], scale(b, c),
                       to[0], to[1]);
      for (int side = 0; side < 2; ++side)
        if (out[side].map && !out[side].in_place)
          out[side].map->write(b, c, begin, length, buffer[2 + side], out[side].past_cache);
    }
  }

  void pixels(int64_t b, int64_t first, int64_t channels) const {
    alignas(64) T by[6][kMostChannels] = {};
    for (int64_t c = 0; c < channels; ++c) {
      const AfdsRow<T>& of = row[b * s.x.channels + first + c];
      const T factor = scale(b, first + c);
      by[0][c] = of.inverse_s;
      by[1][c] = of.inverse_t;
      by[2][c] = factor * of.inverse_s;
      by[3][c] = factor * of.own_s;
      by[4][c] = factor * of.inverse_t;
      by[5][c] = factor * of.own_t;
    }
    const T* const factors[6] = {by[0], by[1], by[2], by[3], by[4], by[5]};
    alignas(64) T buffer[2][kGroup * kMostChannels];
    over_pixels<T>(s, t, b, first, channels, [&](const AfdsPixels<T>& tile, int64_t begin) {
      T* to[2] = {nullptr, nullptr};
      int64_t stride[2] = {kMostChannels, kMostChannels};
      bool past_cache = false;
      for (int side = 0; side < 2; ++side) {
        if (!out[side].map) continue;
        const MapRows& map = *out[side].map;
        const bool direct = map.x.storage == (sizeof(T) == 8 ? kFloat64 : kFloat32);
        to[side] = direct ? reinterpret_cast<T*>(map.at(b, first, begin)) : buffer[side];
        if (direct) stride[side] = map.x.pixel_stride();
        past_cache |= direct && out[side].past_cache;
      }
      kernel.pixel_gradients(tile, factors, {to[0], to[1], stride[0], stride[1], past_cache});
      for (int side = 0; side < 2; ++side)
        if (to[side] == buffer[side])
          for (int64_t i = 0; i < tile.positions; ++i)
            row_kernels<T>().narrow[out[side].map->x.storage](
                buffer[side] + i * kMostChannels, channels, out[side].map->at(b, first, begin + i),
                1, false);
    });
  }
};

template <typename T>
void backward(const Backward<T>& pass, int64_t batch) {
  auto by_pixels = [](const MapRows& map) { return map.x.layout == kPixels; };
  bool all = by_pixels(pass.s) && by_pixels(pass.t);
  for (const Output<T>& out : pass.out) all = all && (!out.map || by_pixels(*out.map));
  if (all)
    over_blocks(pass.s.x, batch, kMostChannels,
                [&](int64_t b, int64_t first, int64_t count) { pass.pixels(b, first, count); });
  else
    over_channels(pass.s.x, batch, [&](int64_t index) { pass.channel(index); });
}

// Schemas and meaning of the arguments: amd_fused/losses/afds/operator.py.
std::tuple<Tensor, Tensor> afds_fwd(Tensor student, Tensor teacher, double eps) {
  return any_double({student, teacher}) ? forward<double>(student, teacher, eps)
                                        : forward<float>(student, teacher, eps);
}

std::vector<Tensor> afds_bwd(Tensor grad_distance, Tensor student, Tensor teacher, Tensor numbers,
                             std::vector<bool> needs_grad) {
  STD_TORCH_CHECK(numbers.is_contiguous() && numbers.scalar_type() == grad_distance.scalar_type(),
                  "afds_bwd: numbers must be contiguous and of the dtype of grad_distance");
  std::vector<Tensor> result;
  auto output = [&](auto zero, const Tensor& a) {
    using T = decltype(zero);
    result.push_back(torch::stable::empty_like(a));
    expect_huge_pages(result.back());
    const MapRows map(result.back());
    const bool past_cache = bytes_of(result.back()) > kPastCacheBytes;
    return Output<T>{map, map.plain<T>() && !past_cache, past_cache};
  };
  auto run = [&](auto zero) {
    using T = decltype(zero);
    Backward<T> pass{MapRows(student),
                     MapRows(teacher),
                     static_cast<const T*>(grad_distance.data_ptr()),
                     grad_distance.stride(0),
                     grad_distance.stride(1),
                     static_cast<const AfdsRow<T>*>(numbers.data_ptr()),
                     {}};
    if (needs_grad[0]) pass.out[0] = output(zero, student);
    if (needs_grad[1]) pass.out[1] = output(zero, teacher);
    backward<T>(pass, student.size(0));
  };
  if (grad_distance.scalar_type() == Scalar::Double)
    run(double{});
  else
    run(float{});
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) {
  m.impl("afds_fwd_cpp", TORCH_BOX(&afds_fwd));
  m.impl("afds_bwd_cpp", TORCH_BOX(&afds_bwd));
}

}  // namespace amd_fused
