// From tensors and options, as the operators receive them, to the structs of amd_features.h.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "amd_features.h"

namespace amd_fused {

using torch::stable::Tensor;
using Scalar = torch::headeronly::ScalarType;

inline Storage storage_of(const Tensor& a) {
  switch (a.scalar_type()) {
    case Scalar::Float:
      return kFloat32;
    case Scalar::Double:
      return kFloat64;
    case Scalar::Half:
      return kFloat16;
    case Scalar::BFloat16:
      return kBfloat16;
    default:
      STD_TORCH_CHECK(false, "amd_fused: features must be float32, float64, float16 or bfloat16");
  }
}

// Sizes of 1 make a stride meaningless, so it is not looked at then.
inline Layout layout_of(const Features& x) {
  const bool flat = x.height == 1 || x.width == 1 || x.stride_h == x.width * x.stride_w;
  if (!flat) return kStrided;
  const bool dense_pixels = x.positions() == 1 || x.pixel_stride() == 1;
  const bool dense_channels = x.channels == 1 || x.stride_c == 1;
  if (dense_channels && (x.positions() == 1 || !dense_pixels)) return kPixels;
  return dense_pixels ? kRows : kStrided;
}

inline Features features_of(const Tensor& a) {
  Features x{a.data_ptr(), storage_of(a), kStrided,    a.size(1),   a.size(2),
             a.size(3),    a.stride(0),   a.stride(1), a.stride(2), a.stride(3)};
  x.layout = layout_of(x);
  return x;
}

struct LossWeights {
  double local;                    // w of Eq. 9
  std::vector<double> components;  // a, b, c of Eq. 7
  bool position_mean;
};

// Every number of a call is computed in float64 if one of its features has it, else in float32.
inline bool any_double(const std::vector<Tensor>& features) {
  return std::any_of(features.begin(), features.end(),
                     [](const Tensor& a) { return a.scalar_type() == Scalar::Double; });
}

// Arguments as in amd_fused/losses/amd/operator.py.
template <typename T>
Settings<T> make_settings(const std::optional<std::vector<double>>& margin_polynomial,
                          double margin, double eps, double scale, bool released,
                          std::optional<double> mask_threshold) {
  Settings<T> settings{};
  settings.degree = margin_polynomial ? int(margin_polynomial->size()) - 1 : -1;
  STD_TORCH_CHECK(settings.degree <= kMaxDegree, "amd_fwd: margin_polynomial must have at most ",
                  kMaxDegree + 1, " coefficients, got ", settings.degree + 1);
  if (margin_polynomial)
    std::copy(margin_polynomial->begin(), margin_polynomial->end(), settings.coefficients);
  settings.margin = margin;
  settings.eps = eps;
  settings.scale = T(scale);
  settings.released = released;
  settings.mask_threshold = T(mask_threshold.value_or(-1.0));
  return settings;
}

}  // namespace amd_fused
