// One position's part in the loss, and what a sample's sums make of it: shared by the form that
// holds a sample in one block and the one that cuts it into chunks.
#pragma once

#include "storage.cuh"

namespace amd_fused {
namespace cuda {

constexpr int kWhole = kMaxQuadrants, kRegions = kMaxQuadrants + 1;

// cos and sin of m theta by way of half turns: their range is reduced exactly and without the slow
// path, which would keep numbers in local memory.
__device__ __forceinline__ Cosine<float> cos_margin_direct(float n, float m) {
  const float positive = n < 0 ? 0 : n, theta = 2 * asinf(sqrtf(positive / 2));
  float sine, cosine;
  sincospif(m * (theta * 0.318309886183790672f), &sine, &cosine);
  return cos_margin_direct(positive, m, theta, cosine, sine);
}
__device__ __forceinline__ Cosine<double> cos_margin_direct(double n, double m) {
  const double positive = n < 0 ? 0 : n, theta = 2 * asin(sqrt(positive / 2));
  double sine, cosine;
  sincospi(m * (theta * 0.318309886183790672), &sine, &cosine);
  return cos_margin_direct(positive, m, theta, cosine, sine);
}

// n = 1 - q of one position, its masked form, and t = cos(m arccos q).
template <typename T>
struct Angle {
  T n;
  bool masked;
  Cosine<T> t;
};
template <typename T>
__device__ __forceinline__ T negative(T f, const MapNorm<T>& norm, const Settings<T>& o,
                                      bool* masked) {
  const T n = negative_map<T>(f, norm.norm, norm.inverse, T(o.eps));
  *masked = n <= o.mask_threshold;  // section 5.6.1; NaN is kept, so that it reaches the loss
  return n;
}
template <typename T>
__device__ __forceinline__ Angle<T> angle_of(T f, const MapNorm<T>& norm, const Settings<T>& o) {
  Angle<T> angle;
  const T n = negative(f, norm, o, &angle.masked);
  angle.n = angle.masked ? T(0) : n;
  angle.t = o.degree < 0 ? cos_margin_direct(n, T(o.margin))
                         : cos_margin_polynomial<T>(n, o.coefficients, o.degree);
  return angle;
}

// The maps g, p and n of Eq. 7 at one position of one side, and their derivatives by q.
template <typename T>
struct Terms {
  T x[kTerms], slope[kTerms];
};
template <typename T>
__device__ __forceinline__ Terms<T> terms_of(T f, const MapNorm<T>& norm, const Settings<T>& o) {
  const Angle<T> angle = angle_of(f, norm, o);
  const T z = o.scale * (angle.t.value - angle.n);  // Eq. 6
  const LogSigmoid<T> log = log_sigmoid<T>(z, exponential(z > 0 ? -z : z));
  const T slope_n = angle.masked ? T(0) : T(-1);
  return {{log.value, o.released ? angle.t.value : f * norm.inverse, angle.n},
          {log.slope * o.scale * (angle.t.slope - slope_n), o.released ? angle.t.slope : T(1),
           slope_n}};
}
// The maps alone, where g is at hand.
template <typename T>
__device__ __forceinline__ Terms<T> terms_of(T f, T g, const MapNorm<T>& norm,
                                             const Settings<T>& o) {
  Terms<T> terms;
  bool masked;
  const T n = negative(f, norm, o, &masked);
  terms.x[0] = g;
  terms.x[1] = o.released ? angle_of(f, norm, o).t.value : f * norm.inverse;
  terms.x[2] = masked ? T(0) : n;
  return terms;
}

// Positions of a region of a map of this size; quadrants are cut at H // 2 and W // 2.
struct MapSize {
  int height, width;

  __device__ __forceinline__ int count(int region) const {
    if (region == kWhole) return height * width;
    const Rectangle r = quadrant_rectangle(height, width, region);
    return int(r.height * r.width);
  }
};

// Every step-th position of a quadrant from number j on, without a division a position.
struct Walk {
  int left, step;       // numbers to go, in steps
  int position;         // in the map
  int column, columns;  // in the quadrant
  int step_rows, step_columns, width;

  __device__ __forceinline__ Walk(const MapSize& size, int quadrant, int j, int end, int step)
      : step(step), width(size.width) {
    const Rectangle r = quadrant_rectangle(size.height, size.width, quadrant);
    const int count = int(r.height * r.width);
    left = (end < count ? end : count) - j;
    columns = int(r.width) > 0 ? int(r.width) : 1;  // a map of one column has empty quadrants
    const int row = j / columns;
    column = j - row * columns;
    position = (int(r.row) + row) * width + int(r.column) + column;
    step_rows = step / columns;
    step_columns = step - step_rows * columns;
  }
  __device__ __forceinline__ bool inside() const { return left > 0; }
  __device__ __forceinline__ void next() {
    left -= step;
    column += step_columns;
    position += step_rows * width + step_columns;
    if (column >= columns) {
      column -= columns;
      position += width - columns;
    }
  }
};

// What the sums over a sample give, in shared memory. Regions: the quadrants, then the whole map.
template <typename T>
struct Sample {
  MapNorm<T> norm[2];
  Unit<T> unit[2][kRegions][kTerms];
  Pull<T> pull[2][kRegions][kTerms];
  T share_of_loss[kRegions][kTerms], sum_uf[2];
};

// Each is called by all threads of a block, the first few of which work; a barrier has to follow.
// sum(region, j) is the sum number j over a region.
template <typename T, typename Sum>
__device__ __forceinline__ void finish_norms(Sample<T>* sample, T eps, const Sum& sum) {
  const int side = threadIdx.x;
  if (side < 2) sample->norm[side] = map_norm(sum(kWhole, side), eps);
}

template <typename T, typename Sum>
__device__ __forceinline__ void finish_squares(Sample<T>* sample, const Sum& sum) {
  const int side = threadIdx.x / (kRegions * kTerms);
  const int region = threadIdx.x / kTerms % kRegions, x = threadIdx.x % kTerms;
  if (side < 2) sample->unit[side][region][x] = unit(sum(region, side * kTerms + x));
}

// The first kTerms sums are of D_x with the norms of the whole map, the others with a quadrant's.
template <typename T, typename Sum>
__device__ __forceinline__ void finish_distances(Sample<T>* sample, const MapSize& size,
                                                 const Options<T>& options, T layer_weight,
                                                 const Sum& sum) {
  const int side = threadIdx.x / (kRegions * kTerms);
  const int region = threadIdx.x / kTerms % kRegions, x = threadIdx.x % kTerms;
  if (side >= 2) return;
  const Unit<T> own = sample->unit[side][region][x], other = sample->unit[1 - side][region][x];
  const int count = size.count(region);
  const T distance =
      settled(sum(region, region == kWhole ? x : kTerms + x), count, own.length, other.length);
  const T share = region == kWhole ? 1 - options.local_weight : options.local_weight / 4;
  const T weight = region_weight(layer_weight, share, options.components[x], options.position_mean,
                                 count > 0 ? count : 1);
  if (side == 0) sample->share_of_loss[region][x] = weight * distance;
  sample->pull[side][region][x] = make_pull(region == kWhole, weight, count, own.inverse,
                                            other.inverse, distance, own.length, other.length);
}

// Without a local part there are no quadrants' norms to speak of: an empty one has none.
template <typename T>
__device__ __forceinline__ T loss_of(const Sample<T>& sample, bool local) {
  T loss = 0;
  for (int region = local ? 0 : kWhole; region < kRegions; ++region)
    for (int x = 0; x < kTerms; ++x) loss += sample.share_of_loss[region][x];
  return loss;
}

// x^2 of both sides: sums for finish_squares.
template <typename T>
__device__ __forceinline__ void add_squares(const Terms<T>& s, const Terms<T>& t,
                                            T (&sums)[2 * kTerms]) {
#pragma unroll
  for (int x = 0; x < kTerms; ++x) {
    sums[x] += s.x[x] * s.x[x];
    sums[kTerms + x] += t.x[x] * t.x[x];
  }
}

// Eq. 7: squared differences of the normalised maps: sums for finish_distances.
template <typename T>
__device__ __forceinline__ void add_distances(const Sample<T>& sample, int quadrant,
                                              const Terms<T>& s, const Terms<T>& t,
                                              T (&sums)[2 * kTerms]) {
#pragma unroll
  for (int x = 0; x < kTerms; ++x) {
    const T d = s.x[x] * sample.unit[kStudent][kWhole][x].inverse -
                t.x[x] * sample.unit[kTeacher][kWhole][x].inverse;
    const T e = s.x[x] * sample.unit[kStudent][quadrant][x].inverse -
                t.x[x] * sample.unit[kTeacher][quadrant][x].inverse;
    sums[x] += d * d;
    sums[kTerms + x] += e * e;
  }
}

// derived: u = dL/dq = sum over x and regions of dL/dx dx/dq, at one position.
template <typename T>
__device__ __forceinline__ T slope_of(const Sample<T>& sample, int side, int quadrant, bool local,
                                      const Terms<T>& own, const Terms<T>& other) {
  T u = 0;
#pragma unroll
  for (int x = 0; x < kTerms; ++x) {
    T pull = sample.pull[side][kWhole][x].on(own.x[x], other.x[x]);
    if (local) pull += sample.pull[side][quadrant][x].on(own.x[x], other.x[x]);
    u += pull * own.slope[x];
  }
  return u;
}

}  // namespace cuda
}  // namespace amd_fused
