// Channels of feature maps as rows of positions, tile by tile, for the losses that compare them.
#pragma once

#include "rows_tensors.h"

namespace amd_fused {

inline int64_t bytes_of(Storage storage) {
  return storage == kFloat64 ? 8 : storage == kFloat32 ? 4 : 2;
}

// Features of any strides; positions are counted over the flattened map.
struct MapRows {
  Features x;
  bool flat;  // one stride leads from each position to the next

  explicit MapRows(const Tensor& a)
      : x(features_of(a)),
        flat(x.height == 1 || x.width == 1 || x.stride_h == x.width * x.stride_w) {}

  char* at(int64_t b, int64_t c, int64_t position) const {
    const int64_t within = flat ? position * x.pixel_stride()
                                : position / x.width * x.stride_h + position % x.width * x.stride_w;
    return static_cast<char*>(x.data) +
           (b * x.stride_b + c * x.stride_c + within) * bytes_of(x.storage);
  }

  // Positions of a row of the map, from this one on, that one stride leads through.
  int64_t run(int64_t position, int64_t count) const {
    return flat ? count : std::min(count, x.width - position % x.width);
  }
  int64_t stride() const { return flat ? x.pixel_stride() : x.stride_w; }

  template <typename T>
  bool plain() const {
    return flat && x.storage == kOwnStorage<T> && (x.positions() == 1 || x.pixel_stride() == 1);
  }

  // Positions [begin, begin + count) of a channel: where they lie if that will do, else widened
  // into `buffer`.
  template <typename T>
  const T* read(int64_t b, int64_t c, int64_t begin, int64_t count, T* buffer) const {
    if (plain<T>()) return reinterpret_cast<const T*>(at(b, c, begin));
    for (int64_t i = 0; i < count;) {
      const int64_t length = run(begin + i, count - i);
      row_kernels<T>().widen[x.storage](at(b, c, begin + i), stride(), length, buffer + i);
      i += length;
    }
    return buffer;
  }

  // The same the other way.
  template <typename T>
  void write(int64_t b, int64_t c, int64_t begin, int64_t count, const T* buffer,
             bool past_cache) const {
    for (int64_t i = 0; i < count;) {
      const int64_t length = run(begin + i, count - i);
      row_kernels<T>().narrow[x.storage](buffer + i, length, at(b, c, begin + i), stride(),
                                         past_cache);
      i += length;
    }
  }
};

}  // namespace amd_fused
