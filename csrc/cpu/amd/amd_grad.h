// Backward: dL/dA_ci = 2 A_ci dL/df_i, times the upstream gradient before the cast to the features'
// dtype. One read of A, one write of its gradient.
#pragma once

#include "amd_job.h"
#include "simd.h"

namespace amd_fused {
namespace AMD_ISA {

constexpr int64_t kMaxPattern = 4096;  // positions whose factors are laid out at once

// out[i] = a[i] * factor[i mod period] for i in [0, length). `factor` holds kLanes more values than
// its period. The stores are aligned; past_cache says to write around the caches.
template <typename T, typename S>
void scale_run(const S* a, S* out, int64_t length, const T* factor, int64_t period,
               bool past_cache) {
  constexpr int kL = kLanes<T>;
  constexpr int64_t kBytes = kL * sizeof(S);
  int64_t head = (kBytes - int64_t((uintptr_t)out % kBytes)) % kBytes / int64_t(sizeof(S));
  if (head > length) head = length;
  if (head) store_first<T>(out, load_first<T>(a, head) * load<T>(factor), head);
  int64_t i = head, phase = head % period;
  for (; i + kL <= length; i += kL) {
    Vec<T> value = load<T>(a + i) * load<T>(factor + phase);
    if (past_cache)
      stream<T>(out + i, value);
    else
      store<T>(out + i, value);
    phase += kL;
    if (phase >= period) phase -= period;
  }
  if (i < length)
    store_first<T>(out + i, load_first<T>(a + i, length - i) * load<T>(factor + phase), length - i);
}

template <typename T, typename S>
void gradient_rows(const Features& in, const S* a, S* out, int64_t out_stride_c, const T* d_f,
                   T scale, const int64_t channels[2], const int64_t positions[2],
                   bool past_cache) {
  constexpr int kL = kLanes<T>;
  T factor[kMaxPattern + 2 * kL];
  for (int64_t begin = positions[0]; begin < positions[1]; begin += kMaxPattern) {
    const int64_t left = positions[1] - begin;
    const int64_t length = left < kMaxPattern ? left : kMaxPattern;
    // The pattern repeats at least once a vector, so that a step wraps once at the most.
    const int64_t period = length * ((kL + length - 1) / length);
    for (int64_t i = 0; i < period + kL; i += length) {
      const int64_t count = period + kL - i < length ? period + kL - i : length;
      for (int64_t j = 0; j < count; ++j) factor[i + j] = scale * d_f[begin + j];
    }
    const bool whole_rows = length == in.positions();
    if (whole_rows && in.stride_c == length && out_stride_c == length) {
      const int64_t offset = channels[0] * length;
      scale_run<T>(a + offset, out + offset, (channels[1] - channels[0]) * length, factor, period,
                   past_cache);
    } else {
      for (int64_t c = channels[0]; c < channels[1]; ++c)
        scale_run<T>(a + c * in.stride_c + begin, out + c * out_stride_c + begin, length, factor,
                     period, past_cache);
    }
  }
}

template <typename T, typename S>
void gradient_pixels(const S* a, S* out, int64_t in_stride_p, int64_t out_stride_p, const T* d_f,
                     T scale, const int64_t channels[2], const int64_t positions[2],
                     bool past_cache) {
  constexpr int kL = kLanes<T>;
  const int64_t length = channels[1] - channels[0];
  T factor[2 * kL];
  for (int64_t i = positions[0]; i < positions[1]; ++i) {
    for (int k = 0; k < 2 * kL; ++k) factor[k] = scale * d_f[i];
    scale_run<T>(a + i * in_stride_p + channels[0], out + i * out_stride_p + channels[0], length,
                 factor, kL, past_cache);
  }
}

template <typename T, typename S>
void gradient_strided(const Features& in, const Features& out, const S* a, S* gradient,
                      const T* d_f, T scale, const int64_t channels[2],
                      const int64_t positions[2]) {
  for (int64_t i = positions[0]; i < positions[1]; ++i) {
    const int64_t row = i / in.width, column = i % in.width;
    const S* from = a + row * in.stride_h + column * in.stride_w;
    S* to = gradient + row * out.stride_h + column * out.stride_w;
    for (int64_t c = channels[0]; c < channels[1]; ++c) {
      Vec<T> value = load_first<T>(from + c * in.stride_c, 1) * (scale * d_f[i]);
      store_first<T>(to + c * out.stride_c, value, 1);
    }
  }
}

template <typename T, typename S>
void feature_gradient(const Features& in, const Features& out, int64_t sample, const T* d_f,
                      T grad_loss, const int64_t channels[2], const int64_t positions[2],
                      bool past_cache) {
  const S* a = (const S*)in.data + sample * in.stride_b;
  S* gradient = (S*)out.data + sample * out.stride_b;
  const T scale = 2 * grad_loss;
  if (in.layout == kRows && out.layout == kRows) {
    gradient_rows<T>(in, a, gradient, out.stride_c, d_f, scale, channels, positions, past_cache);
  } else if (in.layout == kPixels && out.layout == kPixels) {
    gradient_pixels<T>(a, gradient, in.pixel_stride(), out.pixel_stride(), d_f, scale, channels,
                       positions, past_cache);
  } else {
    gradient_strided<T>(in, out, a, gradient, d_f, scale, channels, positions);
  }
  if (past_cache) stream_fence();
}

}  // namespace AMD_ISA
}  // namespace amd_fused
