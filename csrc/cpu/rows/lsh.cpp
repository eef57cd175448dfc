// Operator of the LSH loss's cross-entropy: tiles of the hash values shared out among the threads.

#include <optional>

#include "rows_tensors.h"

namespace amd_fused {
namespace {

// Tiles of one parallel unit: enough to outweigh its scheduling.
constexpr int64_t kUnitTiles = 8;

template <typename T>
void bce(const Tensor& hash_s, const Tensor& hash_t, const T* bias, bool needs_grad, double* sums) {
  const int64_t hashes = hash_s.size(1), tiles = tiles_of(hashes);
  T* const of_s = static_cast<T*>(hash_s.data_ptr());
  const T* const of_t = static_cast<const T*>(hash_t.data_ptr());
  const auto kernel = row_kernels<T>().lsh.bce;
  torch::stable::parallel_for(
      0, hash_s.size(0) * tiles, kUnitTiles, [&](int64_t first, int64_t last) {
        for (int64_t unit = first; unit < last; ++unit) {
          const int64_t begin = unit % tiles * kTile, at = unit / tiles * hashes + begin;
          sums[unit] = kernel(of_s + at, of_t + at, bias ? bias + begin : nullptr,
                              std::min(kTile, hashes - begin), needs_grad);
        }
      });
}

// Schema and meaning of the arguments: amd_fused/losses/lsh/operator.py.
Tensor lsh_bce(Tensor hash_s, Tensor hash_t, std::optional<Tensor> bias, bool needs_grad) {
  const Scalar dtype = hash_s.scalar_type();
  const bool alike = hash_t.scalar_type() == dtype && hash_t.is_contiguous() &&
                     hash_s.is_contiguous() &&
                     (!bias || (bias->scalar_type() == dtype && bias->is_contiguous()));
  STD_TORCH_CHECK(
      alike && (dtype == Scalar::Float || dtype == Scalar::Double),
      "lsh_bce: hash_s, hash_t and bias must be contiguous, all float32 or all float64");
  Tensor sums =
      torch::stable::new_empty(hash_s, {hash_s.size(0) * tiles_of(hash_s.size(1))}, Scalar::Double);
  double* const to = static_cast<double*>(sums.data_ptr());
  const void* const of_bias = bias ? bias->data_ptr() : nullptr;
  if (dtype == Scalar::Double)
    bce<double>(hash_s, hash_t, static_cast<const double*>(of_bias), needs_grad, to);
  else
    bce<float>(hash_s, hash_t, static_cast<const float*>(of_bias), needs_grad, to);
  return sums;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amd_fused, CPU, m) { m.impl("lsh_bce_cpp", TORCH_BOX(&lsh_bce)); }

}  // namespace amd_fused
