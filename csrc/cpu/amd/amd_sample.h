// The loss of one sample of one layer pair, from its two attention maps to d loss / d f: a few
// passes over buffers that stay in the caches, each over chunks, each returning sums in double
// precision. Chunks and the order of the sums depend on the shape alone, so results are bitwise the
// same for any number of threads.
#pragma once

#include "amd_job.h"
#include "amd_math.h"
#include "vector_exp.h"

namespace amd_fused {
namespace AMD_ISA {

// Section 4.2: ||f||, as a sum of squares.
template <typename T>
Sums square_sums(const Job<T>& job, const Chunk& chunk) {
  Vec<T> sum[2] = {};
  for (int64_t i = chunk.begin; i < chunk.begin + chunk.length; i += kLanes<T>)
    for (int side = 0; side < 2; ++side) {
      Vec<T> f = load<T>(job.f[side] + i);  // padding is 0
      sum[side] += f * f;
    }
  return {{horizontal_sum<T>(sum[0]), horizontal_sum<T>(sum[1])}};
}

template <typename T>
__attribute__((noinline)) void cos_margin_lanes(const T* n, double m, T* value, T* slope) {
  for (int i = 0; i < kLanes<T>; ++i) {
    const double half = n[i] / 2.0;
    const double theta = 2 * __builtin_asin(__builtin_sqrt(half < 0 ? 0 : half));
    const Cosine<double> t = cos_margin_direct<double>(
        n[i] < 0 ? 0 : n[i], m, theta, __builtin_cos(m * theta), __builtin_sin(m * theta));
    value[i] = T(t.value);
    slope[i] = T(t.slope);
  }
}

// Vectors that take each step of `evaluate` one after another before the next step begins. A step
// is one long chain of dependent instructions: vectors that went through all steps one by one would
// wait for each other, and these do not.
constexpr int kAbreast = 8;

// f to g, n (and t for the released formula) and dg/dq. Padding becomes 0 in every map.
template <typename T, Form kForm, bool kDirect>
Sums evaluate_form(const Job<T>& job, const Chunk& chunk) {
  constexpr int kL = kLanes<T>;
  const Settings<T>& o = *job.settings;
  const Vec<T> zero = {};
  Vec<T> sum[2][kTerms] = {};
  for (int64_t i = 0; i < chunk.length; i += kAbreast * kL) {
    const int64_t vectors = (chunk.length - i + kL - 1) / kL;
    const int64_t count = vectors < kAbreast ? vectors : kAbreast;
    for (int side = 0; side < 2; ++side) {
      const int64_t at = chunk.begin + i;
      Vec<T> all[kAbreast], z[kAbreast], e[kAbreast];
      Cosine<Vec<T>> t[kAbreast];
      for (int64_t v = 0; v < count; ++v) {
        const Vec<T> f = load<T>(job.f[side] + at + v * kL);
        all[v] = negative_map<T>(f, job.norm[side], job.inverse_norm[side], T(o.eps));
        if (kDirect)
          cos_margin_lanes<T>((const T*)&all[v], o.margin, (T*)&t[v].value, (T*)&t[v].slope);
        else
          t[v] = cos_margin_polynomial<T>(all[v], o.coefficients, o.degree);
      }
      for (int64_t v = 0; v < count; ++v) {
        // Section 5.6.1. NaN is kept, so that it reaches the loss.
        const Vec<T> n = all[v] <= o.mask_threshold ? zero : all[v];
        z[v] = o.scale * (t[v].value - n);  // Eq. 6
        e[v] = exp_non_positive<T>(z[v] > 0 ? -z[v] : z[v]);
      }
      for (int64_t v = 0; v < count; ++v) {
        const int64_t to = at + v * kL;
        const IntVec<T> valid = first_lanes<T>(chunk.length - i - v * kL);
        const IntVec<T> masked = all[v] <= o.mask_threshold;
        LogSigmoid<Vec<T>> log = log_sigmoid<T>(z[v], e[v]);
        // dz/dq = s (dt/dq - dn/dq), dn/dq = -1 or 0.
        Vec<T> slope = log.slope * o.scale * (t[v].slope + (masked ? zero : splat<T>(1)));
        Vec<T> n = masked ? zero : all[v];
        n = valid ? n : zero;
        Vec<T> g = valid ? log.value : zero;
        store<T>(job.g[side] + to, g);
        store<T>(job.n[side] + to, n);
        store<T>(job.slope_g[side] + to, slope);
        Vec<T> p = load<T>(job.f[side] + to) * job.inverse_norm[side];
        if (kForm == kReleased) {
          p = valid ? t[v].value : zero;
          store<T>(job.p[side] + to, p);
          store<T>(job.slope_p[side] + to, t[v].slope);
        }
        sum[side][0] += g * g;
        sum[side][1] += p * p;
        sum[side][2] += n * n;
      }
    }
  }
  Sums sums;
  for (int side = 0; side < 2; ++side)
    for (int x = 0; x < kTerms; ++x) sums.of[side * kTerms + x] = horizontal_sum<T>(sum[side][x]);
  return sums;
}

// Where of the terms only D_p counts nothing is made of f, and p = q is f in other units.
template <typename T>
Sums evaluate_map_alone(const Job<T>& job, const Chunk& chunk) {
  Vec<T> sum[2] = {};
  for (int64_t at = chunk.begin; at < chunk.begin + chunk.length; at += kLanes<T>)
    for (int side = 0; side < 2; ++side) {
      const Vec<T> p = load<T>(job.f[side] + at) * job.inverse_norm[side];
      sum[side] += p * p;
    }
  Sums sums{};
  for (int side = 0; side < 2; ++side) sums.of[side * kTerms + 1] = horizontal_sum<T>(sum[side]);
  return sums;
}

template <typename T>
Sums evaluate(const Job<T>& job, const Chunk& chunk) {
  if (job.form == kMapAlone) return evaluate_map_alone(job, chunk);
  const bool direct = job.settings->degree < 0;
  if (job.form == kReleased)
    return direct ? evaluate_form<T, kReleased, true>(job, chunk)
                  : evaluate_form<T, kReleased, false>(job, chunk);
  return direct ? evaluate_form<T, kPublished, true>(job, chunk)
                : evaluate_form<T, kPublished, false>(job, chunk);
}

template <typename T>
struct Terms {
  Vec<T> x[kTerms];  // g, p, n
};

template <typename T, Form kForm>
AMD_INLINE Terms<T> load_terms(const Job<T>& job, int side, int64_t at) {
  Terms<T> terms{};
  terms.x[1] = kForm == kReleased ? load<T>(job.p[side] + at)
                                  : load<T>(job.f[side] + at) * job.inverse_norm[side];
  if (kForm != kMapAlone) {
    terms.x[0] = load<T>(job.g[side] + at);
    terms.x[2] = load<T>(job.n[side] + at);
  }
  return terms;
}

// The terms that are computed: [first, end) of g, p, n.
template <Form kForm>
constexpr int kFirstTerm = kForm == kMapAlone ? 1 : 0;
template <Form kForm>
constexpr int kEndTerm = kForm == kMapAlone ? 2 : kTerms;

// Eq. 7: D_x, squared differences of the normalised maps.
template <typename T, Form kForm>
Sums distances_form(const Job<T>& job, const Chunk& chunk) {
  const auto& local = job.quadrant_inverse[chunk.quadrant];
  Vec<T> whole[kTerms] = {}, quadrant[kTerms] = {};
  for (int64_t at = chunk.begin; at < chunk.begin + chunk.length; at += kLanes<T>) {
    Terms<T> s = load_terms<T, kForm>(job, kStudent, at);
    Terms<T> t = load_terms<T, kForm>(job, kTeacher, at);
    for (int x = kFirstTerm<kForm>; x < kEndTerm<kForm>; ++x) {
      Vec<T> d = s.x[x] * job.inverse[kStudent][x] - t.x[x] * job.inverse[kTeacher][x];
      Vec<T> e = s.x[x] * local[kStudent][x] - t.x[x] * local[kTeacher][x];
      whole[x] += d * d;
      quadrant[x] += e * e;
    }
  }
  Sums sums;
  for (int x = 0; x < kTerms; ++x) {
    sums.of[x] = horizontal_sum<T>(whole[x]);
    sums.of[kTerms + x] = horizontal_sum<T>(quadrant[x]);
  }
  return sums;
}

template <typename T>
Sums distances(const Job<T>& job, const Chunk& chunk) {
  if (job.form == kMapAlone) return distances_form<T, kMapAlone>(job, chunk);
  return job.form == kReleased ? distances_form<T, kReleased>(job, chunk)
                               : distances_form<T, kPublished>(job, chunk);
}

// derived: u = dL/dq = sum over x and regions of dL/dx dx/dq.
template <typename T, Form kForm>
Sums slopes_form(const Job<T>& job, const Chunk& chunk, Side side) {
  const Cut& cut = *job.cut;
  const int k = chunk.quadrant, other = 1 - side;
  const bool local = cut.quadrants > 1;
  auto whole_pull = [&](int x) {
    return make_pull<T>(true, cut.weight_whole[x], cut.height * cut.width, job.inverse[side][x],
                        job.inverse[other][x], job.distance[x], job.length[side][x],
                        job.length[other][x]);
  };
  auto quadrant_pull = [&](int x) {
    return make_pull<T>(false, cut.weight_quadrant[k][x], cut.length[k],
                        job.quadrant_inverse[k][side][x], job.quadrant_inverse[k][other][x],
                        job.quadrant_distance[k][x], job.quadrant_length[k][side][x],
                        job.quadrant_length[k][other][x]);
  };
  const Pull<T> whole[kTerms] = {whole_pull(0), whole_pull(1), whole_pull(2)};
  const Pull<T> quadrant[kTerms] = {quadrant_pull(0), quadrant_pull(1), quadrant_pull(2)};
  const T threshold = job.settings->mask_threshold;
  Vec<T> sum = {};
  for (int64_t at = chunk.begin; at < chunk.begin + chunk.length; at += kLanes<T>) {
    Terms<T> mine = load_terms<T, kForm>(job, side, at);
    Terms<T> theirs = load_terms<T, kForm>(job, other, at);
    Vec<T> pull[kTerms];
    for (int x = kFirstTerm<kForm>; x < kEndTerm<kForm>; ++x) {
      pull[x] = whole[x].on(mine.x[x], theirs.x[x]);
      if (local) pull[x] += quadrant[x].on(mine.x[x], theirs.x[x]);
    }
    Vec<T> u = {};
    if (kForm != kMapAlone) u = pull[0] * load<T>(job.slope_g[side] + at);
    u += kForm == kReleased ? pull[1] * load<T>(job.slope_p[side] + at) : pull[1];
    if (kForm != kMapAlone) {
      const IntVec<T> masked = mine.x[2] <= threshold;  // there n was set to 0 <= threshold
      u -= masked ? Vec<T>{} : pull[2];
    }
    store<T>(job.slope_g[side] + at, u);
    sum += u * load<T>(job.f[side] + at);
  }
  return {{horizontal_sum<T>(sum)}};
}

template <typename T>
Sums slopes(const Job<T>& job, const Chunk& chunk, Side side) {
  if (job.form == kMapAlone) return slopes_form<T, kMapAlone>(job, chunk, side);
  return job.form == kReleased ? slopes_form<T, kReleased>(job, chunk, side)
                               : slopes_form<T, kPublished>(job, chunk, side);
}

// dL/df from u: radial_factor says how.
template <typename T>
void map_gradient(const Job<T>& job, const Chunk& chunk, Side side, double sum_uf) {
  const T direct = job.inverse_norm[side];
  const T radial = T(radial_factor<double>(sum_uf, job.norm[side], direct));
  for (int64_t at = chunk.begin; at < chunk.begin + chunk.length; at += kLanes<T>) {
    Vec<T> u = load<T>(job.slope_g[side] + at);
    store<T>(job.slope_g[side] + at, u * direct - load<T>(job.f[side] + at) * radial);
  }
}

}  // namespace AMD_ISA
}  // namespace amd_fused
