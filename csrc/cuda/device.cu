// The device, as this library's CUDA runtime sees it: it is linked in, beside the one that torch
// brings, and both work in the device's one primary context.

#include "kernels.h"
#include "launch.h"

namespace amd_fused {

DeviceLimits use_device(int device) {
  check(cudaSetDevice(device), "cudaSetDevice");
  DeviceLimits limits{};
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(
      cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      "cudaDeviceGetAttribute");
  return limits;
}

}  // namespace amd_fused
