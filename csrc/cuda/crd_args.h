// What the operator of the CRD loss hands to its kernels.
#pragma once

#include "amd_args.h"

namespace amd_fused {

constexpr int kCrdThreads = 256;
constexpr int kCrdStretch = kCrdThreads;  // candidates of a block
constexpr int kCrdHeld = 8;               // numbers of a row that a lane holds
constexpr int kCrdPiece = 32 * kCrdHeld;  // and a warp
static_assert(kCrdPiece == kCrdThreads, "a column of the piece for each thread");

// Embeddings or a bank, [rows, D], strides in elements.
struct CrdRows {
  const void* data;
  int64_t stride_n, stride_d;
  int32_t storage;
  bool wide;  // rows are whole slots of 16 bytes
};

// One side's embeddings beside the other side's bank.
template <typename T>
struct CrdSide {
  CrdRows anchors, bank;
  T* slopes;    // [B, stretches, D]; null: nobody wants the gradient
  T* gradient;  // [B, D]
};

// Candidate 0 of a sample is its own row, the others are its negatives.
template <typename T>
struct CrdArgs {
  CrdSide<T> side[2];
  const void* samples;  // [B, candidates]
  int64_t stride_b, stride_k;
  bool long_samples;              // int64, else int32
  const double* log_normalizers;  // [2]
  int64_t stride_z;
  T* terms;  // [2, B, stretches]
  T* loss;
  int64_t rows, batch;
  int32_t candidates, width, stretches;
  T inverse_temperature;
  double shift;            // of log_normalizers, to log_h
  double constant, scale;  // of the loss; of the gradients
};

template <typename T>
void launch_crd_forward(const Grid&, const CrdArgs<T>&);
template <typename T>
void launch_crd_sums(const Grid&, const CrdArgs<T>&);

// Shared memory of a block of the forward kernel: a stretch's rows and weights, each warp's slopes
// and term.
template <typename T>
constexpr int crd_shared_bytes() {
  constexpr int kWarps = kCrdThreads / 32;
  return kCrdStretch * int(sizeof(int64_t)) +
         (kCrdStretch + kWarps * kCrdPiece + kWarps) * int(sizeof(T));
}

}  // namespace amd_fused
