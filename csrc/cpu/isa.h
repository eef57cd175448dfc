// Which instruction set's copy of the kernels runs: chosen by the CPU that the library runs on, not
// the one it was built on.
#pragma once

namespace amd_fused {

enum class Isa { kBaseline, kAvx2, kAvx512 };

// The widest that this CPU runs; the environment variable AMD_FUSED_CPU_ISA may name a narrower
// one. Throws std::runtime_error for a value that it does not know.
Isa cpu_isa();

}  // namespace amd_fused
