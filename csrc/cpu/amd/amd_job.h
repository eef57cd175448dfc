// What the operators hand to the kernels: plain structs, the same for every instruction set.
#pragma once

#include "storage.h"

namespace amd_fused {

constexpr int64_t kChunk = 2048;  // positions that one partial sum covers
constexpr int64_t kPad = 16;      // every quadrant starts at a multiple of this in the buffers

// How one layer's map is cut. The per-sample buffers hold the positions quadrant after quadrant,
// each padded to kPad, so that every loop runs over whole vectors; without a local part there is
// one "quadrant".
struct Cut {
  int64_t height, width;
  int quadrants;  // 1 or 4
  int64_t begin[kMaxQuadrants], length[kMaxQuadrants];
  int64_t padded;                                 // buffer length
  double weight_whole[kTerms];                    // of D_x of the whole map, all factors included
  double weight_quadrant[kMaxQuadrants][kTerms];  // of D_x of each quadrant
};

// A run of positions within one quadrant, in buffer order.
struct Chunk {
  int quadrant;
  int64_t begin, length;
};

struct Sums {
  double of[2 * kTerms];
};

// What a map is turned into: the paper's g, p and n, the released code's, whose p is t, or, where g
// and n have no weight, p alone.
enum Form { kPublished, kReleased, kMapAlone };

// One sample of one layer pair: its buffers (cut.padded long each) and the numbers passed between
// passes.
template <typename T>
struct Job {
  const Settings<T>* settings;
  const Cut* cut;
  Form form;
  T *f[2], *g[2], *n[2], *slope_g[2];  // slope_g: dg/dq
  T *p[2], *slope_p[2];                // only for the released formula, where p = t
  T norm[2], inverse_norm[2];          // ||f||, 1 / (||f|| + eps)
  T inverse[2][kTerms], quadrant_inverse[kMaxQuadrants][2][kTerms];  // 1 / max(||x||, 1e-12)
  // |x^|^2: 1, or below 1 where the norm is under its floor.
  double length[2][kTerms], quadrant_length[kMaxQuadrants][2][kTerms];
  double distance[kTerms], quadrant_distance[kMaxQuadrants][kTerms];  // D_x
};

template <typename T>
struct Kernels {
  // f[i] = sum_c A_ci^2 for i in [begin, end) of one sample (Eq. 4).
  void (*attention_map[kStorageCount])(const Features&, int64_t sample, int64_t begin, int64_t end,
                                       T* f);
  // The same, and sums[c] = sum_i A_ci of these positions (AFD).
  void (*map_and_sums[kStorageCount])(const Features&, int64_t sample, int64_t begin, int64_t end,
                                      T* f, double* sums);
  // The passes over one chunk; each returns the sums that the next one needs.
  Sums (*square_sums)(const Job<T>&, const Chunk&);   // f^2 of either side
  Sums (*evaluate)(const Job<T>&, const Chunk&);      // fills g, n, ...; x^2, side by side
  Sums (*distances)(const Job<T>&, const Chunk&);     // D_x: whole map first, then quadrant
  Sums (*slopes)(const Job<T>&, const Chunk&, Side);  // slope_g := u = dL/dq; sum u f
  void (*map_gradient)(const Job<T>&, const Chunk&, Side, double sum_uf);  // slope_g := dL/df
  // gradient = scale A_ci d_f[i] + shift[c] for channels and positions in the given ranges of one
  // sample; no shift where it is null.
  void (*feature_gradient[kStorageCount])(const Features& in, const Features& out, int64_t sample,
                                          const T* d_f, T scale, const T* shift,
                                          const int64_t channels[2], const int64_t positions[2],
                                          bool past_cache);
};

template <typename T>
const Kernels<T>& kernels();  // the widest that this CPU runs

#define AMD_DECLARE_ISA(isa)                                    \
  namespace isa {                                               \
  void fill_kernels(Kernels<float>* f32, Kernels<double>* f64); \
  }
AMD_DECLARE_ISA(baseline)
AMD_DECLARE_ISA(avx2)
AMD_DECLARE_ISA(avx512)

}  // namespace amd_fused
