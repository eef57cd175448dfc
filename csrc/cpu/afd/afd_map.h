// The two means of AFD from one read of the features: Eq. 4's map, and each channel's sum over
// positions.
#pragma once

#include "amd_map.h"

namespace amd_fused {
namespace AMD_ISA {

// Positions whose running sums stay in the first-level cache, and that a channel adds up in T
// before its sum goes on in double.
constexpr int64_t kSumBlock = 1024;
constexpr int kStreams =
    4;  // rows read side by side: sums of more do not fit the registers of AVX2
constexpr int64_t kPixelBlock = 256, kChannelBlock = 512;
constexpr int kPixelsAtOnce = 4;

// The last vector of a row or pixel, zeros behind it. `follows`: the memory behind it may be read.
template <typename T, typename S>
AMD_INLINE Vec<T> load_last(const S* p, int64_t count, bool follows) {
  if (!follows) return load_first<T>(p, count);
  return first_lanes<T>(count) ? load<T>(p) : Vec<T>{};
}

// Adds kRows runs of `stripe` channels side by side to `total`, squares by position, and to `sums`,
// by channel. length <= kSumBlock; `follows`: another row follows the last one.
template <typename T, typename S, int kRows>
void add_rows(const S* a, int64_t stride_c, int64_t stripe, int64_t length, bool follows,
              Vec<T>* total, double* sums) {
  constexpr int kL = kLanes<T>;
  const int64_t full = length / kL, rest = length % kL, vectors = full + (rest ? 1 : 0);
  Vec<T> group[kSumBlock / kL], held[kRows][kL];
  for (int64_t first = 0; first < stripe; first += kGroup) {
    const int64_t last = first + kGroup < stripe ? first + kGroup : stripe;
    for (int64_t v = 0; v < vectors; ++v) group[v] = Vec<T>{};
    for (int64_t c = first; c < last; ++c) {
      const S* r = a + c * stride_c;
      Vec<T> row[kRows] = {};
      for (int64_t v = 0; v < full; ++v) {
        Vec<T> squares = {};
        for (int k = 0; k < kRows; ++k) {
          const Vec<T> value = load<T>(r + k * stripe * stride_c + v * kL);
          squares += value * value;
          row[k] += value;
        }
        group[v] += squares;
      }
      if (rest) {
        const bool readable = stride_c >= kL && (follows || c + 1 < stripe);
        for (int k = 0; k < kRows; ++k) {
          const S* p = r + k * stripe * stride_c + full * kL;
          const Vec<T> value = load_last<T>(p, rest, readable);
          group[full] += value * value;
          row[k] += value;
        }
      }
      const int64_t lane = c % kL;
      for (int k = 0; k < kRows; ++k) held[k][lane] = row[k];
      if (lane + 1 < kL && c + 1 < last) continue;
      for (int k = 0; k < kRows; ++k) {
        for (int64_t i = lane + 1; i < kL; ++i) held[k][i] = Vec<T>{};
        const Vec<T> of_rows = transposed_sums<T>(held[k]);
        for (int64_t i = 0; i <= lane; ++i) sums[k * stripe + c - lane + i] += double(of_rows[i]);
      }
    }
    for (int64_t v = 0; v < vectors; ++v) total[v] += group[v];
  }
}

template <typename T, typename S>
void map_and_sums_of_rows(const S* a, int64_t stride_c, int64_t channels, int64_t length, T* f,
                          double* sums) {
  constexpr int kL = kLanes<T>;
  Vec<T> total[kSumBlock / kL] = {};
  const bool striped = channels / kStreams * stride_c * int64_t(sizeof(S)) >= kPageBytes;
  const int64_t stripe = striped ? channels / kStreams : 0, done = stripe * kStreams;
  if (striped) add_rows<T, S, kStreams>(a, stride_c, stripe, length, done < channels, total, sums);
  if (done < channels)
    add_rows<T, S, 1>(a + done * stride_c, stride_c, channels - done, length, false, total,
                      sums + done);
  const int64_t full = length / kL, rest = length % kL;
  for (int64_t v = 0; v < full; ++v) store<T>(f + v * kL, total[v]);
  if (rest) store_first<T>(f + full * kL, total[full], rest);
}

// Some channels of kPixels neighbouring pixels: squares[k] += those of pixel k, column[c] += all of
// channel c.
template <typename T, typename S, int kPixels>
AMD_INLINE void add_pixels(const S* a, int64_t stride_p, int64_t channels, bool follows,
                           Vec<T>* squares, T* column) {
  constexpr int kL = kLanes<T>;
  const int64_t full = channels / kL * kL, rest = channels % kL;
  Vec<T> own[kPixels] = {};
  for (int64_t c = 0; c < full; c += kL) {
    Vec<T> sum = load<T>(column + c);
    for (int k = 0; k < kPixels; ++k) {
      const Vec<T> value = load<T>(a + k * stride_p + c);
      own[k] += value * value;
      sum += value;
    }
    store<T>(column + c, sum);
  }
  if (rest) {
    Vec<T> sum = load<T>(column + full);
    for (int k = 0; k < kPixels; ++k) {
      const Vec<T> value = load_last<T>(a + k * stride_p + full, rest, follows);
      own[k] += value * value;
      sum += value;
    }
    store<T>(column + full, sum);
  }
  for (int k = 0; k < kPixels; ++k) squares[k] += own[k];
}

template <typename T, typename S>
void map_and_sums_of_pixels(const S* a, const Features& x, int64_t begin, int64_t end, T* f,
                            double* sums) {
  constexpr int kL = kLanes<T>;
  const int64_t stride_p = x.pixel_stride(), positions = x.positions();
  for (int64_t i = 0; i < end - begin; ++i) f[i] = 0;
  for (int64_t low = begin; low < end; low += kPixelBlock) {
    const int64_t high = low + kPixelBlock < end ? low + kPixelBlock : end;
    for (int64_t first = 0; first < x.channels; first += kChannelBlock) {
      const int64_t left = x.channels - first;
      const int64_t channels = left < kChannelBlock ? left : kChannelBlock;
      T column[kChannelBlock] = {};
      for (int64_t i = low; i < high; i += kL) {
        const int64_t count = high - i < kL ? high - i : kL;
        const S* p = a + i * stride_p + first;
        Vec<T> squares[kL] = {};
        int64_t k = 0;
        for (; k + kPixelsAtOnce <= count; k += kPixelsAtOnce) {
          const bool follows = stride_p >= kL && i + k + kPixelsAtOnce < positions;
          add_pixels<T, S, kPixelsAtOnce>(p + k * stride_p, stride_p, channels, follows,
                                          squares + k, column);
        }
        for (; k < count; ++k)
          add_pixels<T, S, 1>(p + k * stride_p, stride_p, channels,
                              stride_p >= kL && i + k + 1 < positions, squares + k, column);
        const Vec<T> of_pixels = transposed_sums<T>(squares);
        for (k = 0; k < count; ++k) f[i - begin + k] += of_pixels[k];
      }
      for (int64_t c = 0; c < channels; ++c) sums[first + c] += double(column[c]);
    }
  }
}

template <typename T, typename S>
void map_and_sums_strided(const S* a, const Features& x, int64_t begin, int64_t end, T* f,
                          double* sums) {
  for (int64_t i = begin; i < end; ++i) {
    const S* r = a + (i / x.width) * x.stride_h + (i % x.width) * x.stride_w;
    double total = 0;
    for (int64_t c = 0; c < x.channels; ++c) {
      const double value = load_first<T>(r + c * x.stride_c, 1)[0];
      total += value * value;
      sums[c] += value;
    }
    f[i - begin] = T(total);
  }
}

template <typename T, typename S>
void map_and_sums(const Features& x, int64_t sample, int64_t begin, int64_t end, T* f,
                  double* sums) {
  const S* a = (const S*)x.data + sample * x.stride_b;
  for (int64_t c = 0; c < x.channels; ++c) sums[c] = 0;
  if (x.layout == kRows) {
    for (int64_t i = begin; i < end; i += kSumBlock)
      map_and_sums_of_rows<T>(a + i, x.stride_c, x.channels,
                              end - i < kSumBlock ? end - i : kSumBlock, f + (i - begin), sums);
  } else if (x.layout == kPixels) {
    map_and_sums_of_pixels<T>(a, x, begin, end, f, sums);
  } else {
    map_and_sums_strided<T>(a, x, begin, end, f, sums);
  }
}

}  // namespace AMD_ISA
}  // namespace amd_fused
