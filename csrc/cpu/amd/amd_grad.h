// Backward: dL/dA_ci = 2 A_ci dL/df_i, times the upstream gradient before the cast to the features'
// dtype; AFD adds a number a channel. One read of A, one write of its gradient.
#pragma once

#include "amd_job.h"
#include "simd.h"

namespace amd_fused {
namespace AMD_ISA {

constexpr int64_t kMaxPattern = 4096;  // positions whose factors are laid out at once

// out[i] = a[i] * factor[i mod period] + shift[i] for i in [0, length); no shift where it is null.
// `factor` holds kLanes more values than its period. The stores are aligned; past_cache says to
// write around the caches.
template <bool kShift, typename T, typename S>
void scale_run(const S* a, S* out, int64_t length, const T* factor, int64_t period, const T* shift,
               bool past_cache) {
  constexpr int kL = kLanes<T>;
  constexpr int64_t kBytes = kL * sizeof(S);
  int64_t head = (kBytes - int64_t((uintptr_t)out % kBytes)) % kBytes / int64_t(sizeof(S));
  if (head > length) head = length;
  auto some = [&](int64_t i, int64_t count, int64_t phase) {
    Vec<T> value = load_first<T>(a + i, count) * load<T>(factor + phase);
    if (kShift) value += load_first<T>(shift + i, count);
    store_first<T>(out + i, value, count);
  };
  if (head) some(0, head, 0);
  int64_t i = head, phase = head % period;
  for (; i + kL <= length; i += kL) {
    Vec<T> value = load<T>(a + i) * load<T>(factor + phase);
    if (kShift) value += load<T>(shift + i);
    if (past_cache)
      stream<T>(out + i, value);
    else
      store<T>(out + i, value);
    phase += kL;
    if (phase >= period) phase -= period;
  }
  if (i < length) some(i, length - i, phase);
}

template <bool kShift, typename T, typename S>
void gradient_rows(const Features& in, const S* a, S* out, int64_t out_stride_c, const T* d_f,
                   T scale, const T* shift, const int64_t channels[2], const int64_t positions[2],
                   bool past_cache) {
  constexpr int kL = kLanes<T>;
  T factor[kMaxPattern + 2 * kL], shifts[kShift ? kMaxPattern : 1];
  for (int64_t begin = positions[0]; begin < positions[1]; begin += kMaxPattern) {
    const int64_t left = positions[1] - begin;
    const int64_t length = left < kMaxPattern ? left : kMaxPattern;
    // The pattern repeats at least once a vector, so that a step wraps once at the most.
    const int64_t period = length * ((kL + length - 1) / length);
    for (int64_t i = 0; i < period + kL; i += length) {
      const int64_t count = period + kL - i < length ? period + kL - i : length;
      for (int64_t j = 0; j < count; ++j) factor[i + j] = scale * d_f[begin + j];
    }
    // Rows that follow each other make one run: as many as their shifts have room for.
    const bool joined = length == in.positions() && in.stride_c == length && out_stride_c == length;
    const int64_t all = channels[1] - channels[0];
    const int64_t rows = !joined ? 1 : kShift ? kMaxPattern / length : all;
    for (int64_t c = channels[0]; c < channels[1]; c += rows) {
      const int64_t count = channels[1] - c < rows ? channels[1] - c : rows;
      for (int64_t k = 0; kShift && k < count; ++k)
        for (int64_t j = 0; j < length; ++j) shifts[k * length + j] = shift[c + k];
      scale_run<kShift, T>(a + c * in.stride_c + begin, out + c * out_stride_c + begin,
                           count * length, factor, period, kShift ? shifts : nullptr, past_cache);
    }
  }
}

template <bool kShift, typename T, typename S>
void gradient_pixels(const S* a, S* out, int64_t in_stride_p, int64_t out_stride_p, const T* d_f,
                     T scale, const T* shift, const int64_t channels[2], const int64_t positions[2],
                     bool past_cache) {
  constexpr int kL = kLanes<T>;
  const int64_t length = channels[1] - channels[0];
  T factor[2 * kL];
  for (int64_t i = positions[0]; i < positions[1]; ++i) {
    for (int k = 0; k < 2 * kL; ++k) factor[k] = scale * d_f[i];
    scale_run<kShift, T>(a + i * in_stride_p + channels[0], out + i * out_stride_p + channels[0],
                         length, factor, kL, kShift ? shift + channels[0] : nullptr, past_cache);
  }
}

template <typename T, typename S>
void gradient_strided(const Features& in, const Features& out, const S* a, S* gradient,
                      const T* d_f, T scale, const T* shift, const int64_t channels[2],
                      const int64_t positions[2]) {
  for (int64_t i = positions[0]; i < positions[1]; ++i) {
    const int64_t row = i / in.width, column = i % in.width;
    const S* from = a + row * in.stride_h + column * in.stride_w;
    S* to = gradient + row * out.stride_h + column * out.stride_w;
    for (int64_t c = channels[0]; c < channels[1]; ++c) {
      Vec<T> value = load_first<T>(from + c * in.stride_c, 1) * (scale * d_f[i]);
      if (shift) value += shift[c];
      store_first<T>(to + c * out.stride_c, value, 1);
    }
  }
}

template <bool kShift, typename T, typename S>
void shifted_gradient(const Features& in, const Features& out, int64_t sample, const T* d_f,
                      T scale, const T* shift, const int64_t channels[2],
                      const int64_t positions[2], bool past_cache) {
  const S* a = (const S*)in.data + sample * in.stride_b;
  S* gradient = (S*)out.data + sample * out.stride_b;
  if (in.layout == kRows && out.layout == kRows) {
    gradient_rows<kShift, T>(in, a, gradient, out.stride_c, d_f, scale, shift, channels, positions,
                             past_cache);
  } else if (in.layout == kPixels && out.layout == kPixels) {
    gradient_pixels<kShift, T>(a, gradient, in.pixel_stride(), out.pixel_stride(), d_f, scale,
                               shift, channels, positions, past_cache);
  } else {
    gradient_strided<T>(in, out, a, gradient, d_f, scale, shift, channels, positions);
  }
  if (past_cache) stream_fence();
}

template <typename T, typename S>
void feature_gradient(const Features& in, const Features& out, int64_t sample, const T* d_f,
                      T scale, const T* shift, const int64_t channels[2],
                      const int64_t positions[2], bool past_cache) {
  const auto gradient = shift ? shifted_gradient<true, T, S> : shifted_gradient<false, T, S>;
  gradient(in, out, sample, d_f, scale, shift, channels, positions, past_cache);
}

}  // namespace AMD_ISA
}  // namespace amd_fused
