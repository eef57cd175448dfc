// Passes of the AFDS loss over one tile of a channel, or of the pixels of many.
#pragma once

#include "afds_rows.h"
#include "lanes.h"

namespace amd_fused {
namespace AMD_ISA {

// The last vector of a row, of what is left behind its whole ones, zeros before or after. Of a row
// longer than a vector it is read from the row's end, which is quicker than to copy what is left.
template <typename T>
AMD_INLINE Vec<T> load_rest(const T* row, int64_t left, int64_t count) {
  constexpr int kL = kLanes<T>;
  if (count < kL) return load_first<T>(row, left);
  return first_lanes<T>(kL - left) ? Vec<T>{} : load<T>(row + count - kL);
}

// Runs f(a vector of s, the same of t) over a row.
template <typename T, typename F>
AMD_INLINE void over_row(const T* s, const T* t, int64_t count, const F& f) {
  constexpr int kL = kLanes<T>;
  int64_t i = 0;
  for (; i + kL <= count; i += kL) f(load<T>(s + i), load<T>(t + i));
  if (i < count) f(load_rest<T>(s, count - i, count), load_rest<T>(t, count - i, count));
}

template <typename T>
AfdsSums afds_squares(const T* s, const T* t, int64_t count) {
  Vec<T> ss{}, tt{};
  over_row<T>(s, t, count, [&](Vec<T> a, Vec<T> b) {
    ss += a * a;
    tt += b * b;
  });
  return {sum_lanes(ss), sum_lanes(tt)};
}

template <typename T>
AfdsSums afds_distances(const T* s, const T* t, int64_t count, T inverse_s, T inverse_t) {
  Vec<T> squares{}, own{};
  over_row<T>(s, t, count, [&](Vec<T> a, Vec<T> b) {
    const Vec<T> x = a * inverse_s;
    const Vec<T> difference = x - b * inverse_t;
    squares += difference * difference;
    own += difference * x;
  });
  return {sum_lanes(squares), sum_lanes(own)};
}

template <typename T>
void afds_gradients(const T* s, const T* t, int64_t count, AfdsRow<T> row, T scale, T* d_s,
                    T* d_t) {
  constexpr int kL = kLanes<T>;
  const T by_s = scale * row.inverse_s, by_t = scale * row.inverse_t;
  const T own_s = scale * row.own_s, own_t = scale * row.own_t;
  for (int64_t i = 0; i < count; i += kL) {
    // The last vector of a longer row is computed from the row's end: some of it twice, alike.
    const int64_t left = count - i;
    const bool whole = count >= kL;
    const int64_t at = whole && left < kL ? count - kL : i;
    const Vec<T> x = (whole ? load<T>(s + at) : load_first<T>(s, left)) * row.inverse_s;
    const Vec<T> y = (whole ? load<T>(t + at) : load_first<T>(t, left)) * row.inverse_t;
    const Vec<T> difference = x - y;
    auto put = [&](T* to, Vec<T> value) {
      if (whole)
        store<T>(to + at, value);
      else
        store_first<T>(to, value, left);
    };
    if (d_s) put(d_s, difference * by_s - x * own_s);
    if (d_t) put(d_t, -difference * by_t - y * own_t);
  }
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <typename T>
AMD_INLINE Vec<T> load_channels(const T* pixel, int64_t left) {
  return left >= kLanes<T> ? load<T>(pixel) : load_first<T>(pixel, left);
}

// Runs f(c, vectors, left) over the channels, two vectors at a time where there are two:
// neighbouring cache lines of a pixel are fetched together.
template <typename T, typename F>
AMD_INLINE void over_vectors(int64_t channels, const F& f) {
  constexpr int kL = kLanes<T>;
  int64_t c = 0;
  for (; c + 2 * kL <= channels; c += 2 * kL) f(c, Count<2>{}, 2 * kL);
  for (; c < channels; c += kL) f(c, Count<1>{}, channels - c);
}

template <typename T>
AMD_INLINE void add_to(T* sum, Vec<T> value) {
  store<T>(sum, load<T>(sum) + value);
}

template <typename T>
void afds_pixel_squares(AfdsPixels<T> p, T* first, T* second) {
  over_vectors<T>(p.channels, [&](int64_t c, auto count, int64_t left) {
    constexpr int kVectors = decltype(count)::value;
    constexpr int kL = kLanes<T>;
    Vec<T> ss[kVectors] = {}, tt[kVectors] = {};
    for (int64_t i = 0; i < p.positions; ++i)
      for (int k = 0; k < kVectors; ++k) {
        const Vec<T> a = load_channels<T>(p.s + i * p.stride_s + c + k * kL, left);
        const Vec<T> b = load_channels<T>(p.t + i * p.stride_t + c + k * kL, left);
        ss[k] += a * a;
        tt[k] += b * b;
      }
    for (int k = 0; k < kVectors; ++k) {
      add_to<T>(first + c + k * kL, ss[k]);
      add_to<T>(second + c + k * kL, tt[k]);
    }
  });
}

template <typename T>
void afds_pixel_distances(AfdsPixels<T> p, const T* inverse_s, const T* inverse_t, T* first,
                          T* second) {
  over_vectors<T>(p.channels, [&](int64_t c, auto count, int64_t left) {
    constexpr int kVectors = decltype(count)::value;
    constexpr int kL = kLanes<T>;
    Vec<T> squares[kVectors] = {}, own[kVectors] = {};
    for (int64_t i = 0; i < p.positions; ++i)
      for (int k = 0; k < kVectors; ++k) {
        const int64_t at = c + k * kL;
        const Vec<T> x =
            load_channels<T>(p.s + i * p.stride_s + at, left) * load<T>(inverse_s + at);
        const Vec<T> difference =
            x - load_channels<T>(p.t + i * p.stride_t + at, left) * load<T>(inverse_t + at);
        squares[k] += difference * difference;
        own[k] += difference * x;
      }
    for (int k = 0; k < kVectors; ++k) {
      add_to<T>(first + c + k * kL, squares[k]);
      add_to<T>(second + c + k * kL, own[k]);
    }
  });
}

template <typename T>
AMD_INLINE void store_channels(T* pixel, Vec<T> value, int64_t left, bool past_cache) {
  if (left < kLanes<T>)
    store_first<T>(pixel, value, left);
  else if (past_cache)
    stream<T>(pixel, value);
  else
    store<T>(pixel, value);
}

template <typename T>
AMD_INLINE bool whole_lines(const T* begin, int64_t stride) {
  return (uintptr_t)begin % kVectorBytes == 0 && stride % kLanes<T> == 0;
}

template <typename T>
void afds_pixel_gradients(AfdsPixels<T> p, const T* const by[6], AfdsPixelGradients<T> d) {
  const bool past_s = d.past_cache && whole_lines<T>(d.s, d.stride_s);
  const bool past_t = d.past_cache && whole_lines<T>(d.t, d.stride_t);
  for (int64_t i = 0; i < p.positions; ++i)
    for (int64_t c = 0; c < p.channels; c += kLanes<T>) {
      const int64_t left = p.channels - c;
      const Vec<T> x = load_channels<T>(p.s + i * p.stride_s + c, left) * load<T>(by[0] + c);
      const Vec<T> y = load_channels<T>(p.t + i * p.stride_t + c, left) * load<T>(by[1] + c);
      const Vec<T> difference = x - y;
      if (d.s)
        store_channels<T>(d.s + i * d.stride_s + c,
                          difference * load<T>(by[2] + c) - x * load<T>(by[3] + c), left, past_s);
      if (d.t)
        store_channels<T>(d.t + i * d.stride_t + c,
                          -difference * load<T>(by[4] + c) - y * load<T>(by[5] + c), left, past_t);
    }
  if (past_s || past_t) stream_fence();
}

template <typename T>
void fill_afds(AfdsKernels<T>* table) {
  table->squares = afds_squares<T>;
  table->distances = afds_distances<T>;
  table->gradients = afds_gradients<T>;
  table->pixel_squares = afds_pixel_squares<T>;
  table->pixel_distances = afds_pixel_distances<T>;
  table->pixel_gradients = afds_pixel_gradients<T>;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
