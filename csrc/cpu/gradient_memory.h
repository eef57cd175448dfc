// The memory of large gradients: how it is asked for and written.
#pragma once

#include "amd_tensors.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace amd_fused {

// Gradients that do not fit the caches anyway are written around them: a plain store reads its line
// first, which makes three bytes moved out of every two.
constexpr int64_t kPastCacheBytes = 8 << 20;

// malloc of the C library hands out blocks of this size and more as fresh pages each time. In pages
// of 4 KB, faulting them in takes twice as long as writing the gradient: 31 ms against 10 ms for
// [32, 64, 112, 112] float32 on two cores.
constexpr int64_t kFreshBytes = 32 << 20;

inline int64_t bytes_of(const Tensor& a) { return a.numel() * int64_t(a.element_size()); }

// Asks for huge pages, where the system leaves that to programs. A hint: failing changes nothing.
inline void expect_huge_pages(const Tensor& fresh) {
#if defined(__linux__)
  constexpr uintptr_t kPage = 4096;
  const int64_t bytes = bytes_of(fresh);
  if (bytes < kFreshBytes) return;
  const uintptr_t begin = (uintptr_t(fresh.data_ptr()) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (uintptr_t(fresh.data_ptr()) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)fresh;
#endif
}

}  // namespace amd_fused
