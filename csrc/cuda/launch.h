// How a kernel is launched, and the check after it. Only nvcc reads this: see amd_args.h for the
// rest.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "amd_args.h"

namespace amd_fused {

// Shared memory that a kernel may use without asking for more.
constexpr int kSharedBytesByDefault = 48 << 10;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("amd_fused: ") + what +
                             " failed: " + cudaGetErrorString(error));
}

// Enqueues a kernel and looks at what the runtime says of it: of this launch, without waiting.
template <typename Args>
void launch(const char* name, void (*kernel)(Args), const Grid& grid, const Args& args) {
  if (grid.blocks == 0) return;
  if (grid.blocks > INT32_MAX)
    throw std::runtime_error(std::string("amd_fused: ") + name + " would need " +
                             std::to_string(grid.blocks) + " blocks, more than a launch has");
  if (grid.shared_bytes > kSharedBytesByDefault)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, grid.shared_bytes),
          name);
#if defined(__CUDACC__)
  kernel<<<unsigned(grid.blocks), grid.threads, grid.shared_bytes,
           static_cast<cudaStream_t>(grid.stream)>>>(args);
#else  // tests/cuda_on_host
  cuda_on_host::launch(name, kernel, grid.blocks, grid.threads, grid.shared_bytes, args);
#endif
  check(cudaGetLastError(), name);
}

}  // namespace amd_fused
