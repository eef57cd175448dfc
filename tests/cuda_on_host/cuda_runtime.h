// Stands where CUDA's own header would: runs kernels on a CPU, for tests.
//
// Every thread of a block is a fiber with a stack of its own; blocks run one after another. Fibers
// change at barriers and shuffles only, so kernels mean what they mean on a GPU, and what a GPU
// would leave undefined is an error here: a barrier that not all threads reach, a shuffle without
// all its lanes, 16-byte accesses off their alignment, writes past the shared memory, which starts
// out as NaN. With AMD_FUSED_HOST_ORDER=reverse threads and blocks take their turns the other way
// round: a kernel in which two of them race gives another result then.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <cmath>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

using std::min;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace cuda_on_host {

struct Index {
  unsigned x;
};
extern Index thread_index, block_index, block_size, grid_size;

char* shared_memory();
// Gives the turn to other threads until all of the block, or of the warp, wait at the same place.
void wait_for_block(const char* file, int line);
void wait_for_warp(const char* file, int line);
// What lanes hand to each other: this thread's place, and that of another lane of its warp.
uint64_t& mine();
uint64_t theirs(unsigned lane_xor);
[[noreturn]] void fail(const char* what);

void run_blocks(const char* name, void (*entry)(const void*), const void* args, int64_t blocks,
                int threads, int shared_bytes);

template <typename Args>
struct Call {
  void (*kernel)(Args);
  const Args* args;
  static void run(const void* call) {
    const Call* self = static_cast<const Call*>(call);
    self->kernel(*self->args);
  }
};
template <typename Args>
void launch(const char* name, void (*kernel)(Args), int64_t blocks, int threads, int shared_bytes,
            const Args& args) {
  const Call<Args> call{kernel, &args};
  run_blocks(name, &Call<Args>::run, &call, blocks, threads, shared_bytes);
}

template <typename T>
T shuffle_xor(unsigned mask, T value, int lane_xor, const char* file, int line) {
  if (mask != 0xffffffffu) fail("a shuffle names less than a whole warp");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  mine() = bits;
  wait_for_warp(file, line);
  bits = theirs(lane_xor);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

template <typename T>
void check_alignment(const T* p) {
  if (reinterpret_cast<uintptr_t>(p) % sizeof(T) != 0) fail("an access is not aligned");
}

}  // namespace cuda_on_host

#define threadIdx cuda_on_host::thread_index
#define blockIdx cuda_on_host::block_index
#define blockDim cuda_on_host::block_size
#define gridDim cuda_on_host::grid_size
#define __syncthreads() cuda_on_host::wait_for_block(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, lane_xor) \
  cuda_on_host::shuffle_xor(mask, value, lane_xor, __FILE__, __LINE__)

template <typename T>
T __ldg(const T* p) {
  cuda_on_host::check_alignment(p);
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return __ldg(p);
}
template <typename T>
void __stwb(T* p, T value) {
  cuda_on_host::check_alignment(p);
  *p = value;
}

inline void sincospi(double x, double* sine, double* cosine) {
  *sine = std::sin(M_PI * x);
  *cosine = std::cos(M_PI * x);
}
inline void sincospif(float x, float* sine, float* cosine) {
  *sine = float(std::sin(M_PI * x));
  *cosine = float(std::cos(M_PI * x));
}

// The runtime's functions that the launches use, of a device as large as an H100, or with
// AMD_FUSED_HOST_MULTIPROCESSORS of so many.
enum cudaError_t { cudaSuccess };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const char* multiprocessors = getenv("AMD_FUSED_HOST_MULTIPROCESSORS");
  const int count = multiprocessors ? atoi(multiprocessors) : 132;
  *value = attribute == cudaDevAttrMultiProcessorCount ? count : 227 << 10;
  return cudaSuccess;
}
