// Eq. 4: the attention map f_i = sum_c A_ci^2, one read of the features.
#pragma once

#include "amd_job.h"
#include "lanes.h"

namespace amd_fused {
namespace AMD_ISA {

// Steps summed before the sum joins the map: keeps rounding error at that of short sums.
constexpr int64_t kGroup = 64;
constexpr int64_t kRowBlock = 2048;  // positions whose running sums stay in the first-level cache
// Hardware prefetchers follow one stream a page: eight streams at once, each in pages of its own,
// read 21 to 26 GB/s on one core of a Zen 4 where one stream reads 15 to 20. Maps too small for
// that are read in the order of memory (24 GB/s; eight streams within a page, 12).
constexpr int64_t kPageBytes = 4096;

template <typename T, typename S>
AMD_INLINE Vec<T> square(const S* p) {
  Vec<T> a = load<T>(p);
  return a * a;
}

// Rows: channels [0, C) of `length` <= kRowBlock positions, as kStripes runs of channels side by
// side.
template <typename T, typename S, int kStripes>
void map_rows(const S* a, int64_t stride_c, int64_t channels, int64_t length, T* f) {
  constexpr int kL = kLanes<T>;
  Vec<T> total[kRowBlock / kL], group[kRowBlock / kL];
  const int64_t vectors = (length + kL - 1) / kL, full = length / kL, rest = length % kL;
  const int64_t stripe = channels / kStripes;
  // The last vector of a row may be read past its end only where the next row follows in memory.
  const bool ends_striped = stripe * kStripes == channels;
  const int64_t steps = rest == 0 ? stripe : stride_c < kL ? 0 : ends_striped ? stripe - 1 : stripe;
  for (int64_t v = 0; v < vectors; ++v) total[v] = Vec<T>{};
  for (int64_t first = 0; first < steps; first += kGroup) {
    const int64_t last = first + kGroup < steps ? first + kGroup : steps;
    for (int64_t v = 0; v < vectors; ++v) group[v] = Vec<T>{};
    for (int64_t c = first; c < last; ++c) {
      const S* r = a + c * stride_c;
      for (int64_t v = 0; v < vectors; ++v) {
        Vec<T> sum = square<T>(r + v * kL);
        for (int k = 1; k < kStripes; ++k) sum += square<T>(r + k * stripe * stride_c + v * kL);
        group[v] += sum;
      }
    }
    for (int64_t v = 0; v < vectors; ++v) total[v] += group[v];
  }
  auto add_row = [&](int64_t c) {
    const S* r = a + c * stride_c;
    for (int64_t v = 0; v < full; ++v) total[v] += square<T>(r + v * kL);
    if (rest) {
      Vec<T> tail = load_first<T>(r + full * kL, rest);
      total[full] += tail * tail;
    }
  };
  for (int64_t c = steps; c < stripe; ++c)
    for (int k = 0; k < kStripes; ++k) add_row(k * stripe + c);
  for (int64_t c = stripe * kStripes; c < channels; ++c) add_row(c);
  for (int64_t v = 0; v < full; ++v) store<T>(f + v * kL, total[v]);
  if (rest) store_first<T>(f + full * kL, total[full], rest);
}

// Pixels: one vector's worth of positions at a time, summed over channels, then across lanes
// together.
template <typename T, typename S>
void map_pixels(const S* a, int64_t stride_p, int64_t channels, int64_t begin, int64_t end,
                int64_t positions, T* f) {
  constexpr int kL = kLanes<T>;
  const int64_t full = channels / kL * kL, rest = channels % kL;
  const IntVec<T> kept = first_lanes<T>(rest);
  for (int64_t i = begin; i < end; i += kL) {
    const int64_t count = end - i < kL ? end - i : kL;
    Vec<T> rows[kL];
    for (int64_t k = 0; k < kL; ++k) {
      Vec<T> total = {};
      if (k < count) {
        const S* r = a + (i + k) * stride_p;
        for (int64_t c = 0; c < full; c += kL) total += square<T>(r + c);
        if (rest) {
          // As in map_rows: reading on is safe where the next pixel follows.
          const bool readable = i + k + 1 < positions && stride_p >= kL;
          Vec<T> tail = readable ? load<T>(r + full) : load_first<T>(r + full, rest);
          tail = kept ? tail : Vec<T>{};
          total += tail * tail;
        }
      }
      rows[k] = total;
    }
    Vec<T> sums = transposed_sums<T>(rows);
    if (count == kL)
      store<T>(f + (i - begin), sums);
    else
      store_first<T>(f + (i - begin), sums, count);
  }
}

template <typename T, typename S>
void map_strided(const S* a, const Features& x, int64_t begin, int64_t end, T* f) {
  for (int64_t i = begin; i < end; ++i) {
    const S* r = a + (i / x.width) * x.stride_h + (i % x.width) * x.stride_w;
    double total = 0;  // one long sum, where the other ways take sums of short ones
    for (int64_t c = 0; c < x.channels; ++c) {
      const double value = load_first<T>(r + c * x.stride_c, 1)[0];
      total += value * value;
    }
    f[i - begin] = T(total);
  }
}

template <typename T, typename S>
void attention_map(const Features& x, int64_t sample, int64_t begin, int64_t end, T* f) {
  const S* a = (const S*)x.data + sample * x.stride_b;
  if (x.layout == kRows) {
    const bool striped = x.channels / 8 * x.stride_c * int64_t(sizeof(S)) >= kPageBytes;
    for (int64_t i = begin; i < end; i += kRowBlock) {
      const int64_t length = end - i < kRowBlock ? end - i : kRowBlock;
      if (striped)
        map_rows<T, S, 8>(a + i, x.stride_c, x.channels, length, f + (i - begin));
      else
        map_rows<T, S, 1>(a + i, x.stride_c, x.channels, length, f + (i - begin));
    }
  } else if (x.layout == kPixels) {
    map_pixels<T>(a, x.pixel_stride(), x.channels, begin, end, x.positions(), f);
  } else {
    map_strided<T>(a, x, begin, end, f);
  }
}

}  // namespace AMD_ISA
}  // namespace amd_fused
