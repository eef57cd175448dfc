// Kernels with the mistakes that running on the CPU is to find: test_cuda_on_host.py.

#include <cuda_runtime.h>

#include <stdexcept>

namespace {

float* shared() { return reinterpret_cast<float*>(cuda_on_host::shared_memory()); }

__global__ void one_thread_misses_the_barrier(float*) {
  if (threadIdx.x != 5) __syncthreads();
}
__global__ void barriers_of_two_branches(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void half_a_warp_shuffles(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void writes_past_shared_memory(float*) { shared()[64 + threadIdx.x] = 1; }
__global__ void loads_off_alignment(float* out) {
  out[0] = float(__ldg(reinterpret_cast<const uint4*>(out + 1)).x);
}
// Right but for a barrier between the writes and the reads.
__global__ void reads_what_others_write(float* out) {
  shared()[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
}
__global__ void reversed(float* out) {
  shared()[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = shared()[blockDim.x - 1 - threadIdx.x];
}

void (*const kKernels[])(float*) = {one_thread_misses_the_barrier,
                                    barriers_of_two_branches,
                                    half_a_warp_shuffles,
                                    writes_past_shared_memory,
                                    loads_off_alignment,
                                    reads_what_others_write,
                                    reversed};

}  // namespace

// Runs kernel number `which` over 64 threads; what was wrong, or nothing.
extern "C" const char* run_broken(int which, float* out) {
  static std::string message;
  message.clear();
  try {
    cuda_on_host::launch("kernel", kKernels[which], 1, 64, 64 * sizeof(float), out);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
