// Channels of samples shared out among the threads, for both passes of the AFDS loss: where
// positions follow each other in memory a channel is taken at a time, where channels do
// (channels_last) a block of them, some pixels at a time.
#pragma once

#include "map_rows.h"

namespace amd_fused {

// Pixels that one kernel call sees: their sums in T stay short.
constexpr int64_t kGroup = 32;
// Channels of a block: whole cache lines. Forward, few enough for all positions of both sides to
// stay in a cache of the second level.
constexpr int64_t kLeastChannels = 16, kMostChannels = 128;
constexpr int64_t kBlockElements = 1 << 18;

// Pixels [begin, begin + count) of a block of channels as a tile of T.
template <typename T>
const T* read_pixels(const MapRows& a, int64_t b, int64_t first, int64_t channels, int64_t begin,
                     int64_t count, T* buffer, int64_t* stride) {
  if (a.x.storage == kOwnStorage<T>) {
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

}  // namespace amd_fused
