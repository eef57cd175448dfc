/* Stands for libcuda: one device of 132 multiprocessors, whose launches go to a callback. */
#include <stdint.h>
#include "cuda.h"

typedef int (*launch_t)(uint64_t function, unsigned blocks, unsigned threads, unsigned shared,
                        void **parameters);
static launch_t launch = 0;
void stub_on_launch(launch_t f) { launch = f; }

CUresult cuInit(unsigned f) { return CUDA_ERROR_NO_DEVICE; } /* torch has no such device */
CUresult cuDriverGetVersion(int *v) { *v = 13000; return 0; }
CUresult cuCtxGetDevice(CUdevice *d) { *d = 0; return 0; }
CUresult cuModuleUnload(CUmodule m) { return 0; }
CUresult cuStreamIsCapturing(CUstream s, CUstreamCaptureStatus *v) { *v = 0; return 0; }
CUresult cuDeviceGet(CUdevice *d, int i) { *d = 0; return 0; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  *v = a == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT ? 132 : 232448;
  return 0;
}
CUresult cuModuleLoadData(CUmodule *m, const void *image) {
  static uintptr_t count = 1000;
  *m = (CUmodule)(count++);
  return 0;
}
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *n) { *f = (CUfunction)m; return 0; }
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
  *v = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
  return 0;
}
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache c) { return 0; }
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) { return 0; }
CUresult cuCtxGetCurrent(CUcontext *c) { *c = (CUcontext)1; return 0; }
CUresult cuCtxSetCurrent(CUcontext c) { return 0; }
CUresult cuCtxGetLimit(size_t *p, CUlimit l) { *p = 1 << 20; return 0; }
CUresult cuCtxSetLimit(CUlimit l, size_t p) { return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)1; return 0; }
CUresult cuGetErrorString(CUresult e, const char **s) { *s = "stub"; return 0; }
CUresult cuPointerGetAttribute(void *d, CUpointer_attribute a, CUdeviceptr p) {
  *(uint64_t *)d = (uint64_t)p;
  return 0;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **parameters, void **extra) {
  return launch ? launch((uint64_t)f, c->gridDimX, c->blockDimX, c->sharedMemBytes, parameters) : 0;
}
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { *n = 1; return 0; }
