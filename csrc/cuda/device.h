// The tensors' device and its current stream, for as long as an operator runs.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "kernels.h"

// tests/cuda_on_host registers the operators for CPU tensors.
#if !defined(AMD_DISPATCH_KEY)
#define AMD_DISPATCH_KEY CUDA
#endif

namespace amd_fused {

class OnDevice {
 public:
  explicit OnDevice(const torch::stable::Tensor& like) : device_(like.get_device()) {
#if defined(USE_CUDA)
    guard_.emplace(device_);
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_));
#endif
    limits_ = use_device(device_);
  }

  const DeviceLimits& limits() const { return limits_; }
  Grid grid(int64_t blocks, int threads, int shared_bytes) const {
    return {blocks, threads, shared_bytes, stream_};
  }

 private:
  int device_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  void* stream_ = nullptr;
  DeviceLimits limits_;
};

}  // namespace amd_fused
