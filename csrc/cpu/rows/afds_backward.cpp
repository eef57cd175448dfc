// Operator afds_bwd: both sides read once more, each wanted gradient written once.

#include "afds_tiles.h"
#include "gradient_memory.h"

namespace amd_fused {
namespace {

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
        const bool direct = map.x.storage == kOwnStorage<T>;
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

// Schema and meaning of the arguments: amd_fused/losses/afds/operator.py.
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

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("afds_bwd_cpp", TORCH_BOX(&afds_bwd)); }

}  // namespace amd_fused
