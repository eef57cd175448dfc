// Vectors of 64 bytes by the compiler's vector extensions: one zmm, two ymm or four xmm registers,
// whichever the including file's target has. Included by each <isa>.cpp, inside its own
// namespace, so that code compiled for a wide CPU can never be linked into the path of a narrow
// one. For the same reason nothing here uses templates of the standard library. The including file
// defines AMD_AVX2 (with FMA and F16C) and AMD_AVX512: a target set by a pragma defines the
// compiler's own macros with GCC 13 and later only.
#pragma once

#include "storage.h"

namespace amd_fused {
namespace AMD_ISA {

constexpr int kVectorBytes = 64;

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Index;
  typedef Index Integer __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr int kCount = 16;
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Index;
  typedef Index Integer __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
  static constexpr int kCount = 8;
};
template <typename T>
using Vec = typename Lanes<T>::Vector;
template <typename T>
using IntVec = typename Lanes<T>::Integer;
// Of a number's parts: sums of them may wrap, which of signed integers is undefined.
template <typename T>
using BitsVec = typename Lanes<T>::Bits;
template <typename T>
constexpr int kLanes = Lanes<T>::kCount;

// Memory formats of one vector's worth of elements.
typedef float Float8 __attribute__((vector_size(32)));
template <int kCount>
struct Bits16;
template <>
struct Bits16<16> {
  typedef uint16_t Narrow __attribute__((vector_size(32)));
  typedef uint32_t Wide __attribute__((vector_size(64)));
  typedef float Float __attribute__((vector_size(64)));
  typedef int32_t Mask __attribute__((vector_size(64)));
};
template <>
struct Bits16<8> {
  typedef uint16_t Narrow __attribute__((vector_size(16)));
  typedef uint32_t Wide __attribute__((vector_size(32)));
  typedef float Float __attribute__((vector_size(32)));
  typedef int32_t Mask __attribute__((vector_size(32)));
};

template <typename V>
AMD_INLINE V read(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <typename V>
AMD_INLINE void write(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <typename To, typename From>
AMD_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// --- float16 and bfloat16 to float32 and back, round to nearest even, NaN kept.

template <int kCount>
AMD_INLINE typename Bits16<kCount>::Float from_bf16(typename Bits16<kCount>::Narrow h) {
  auto wide = __builtin_convertvector(h, typename Bits16<kCount>::Wide) << 16;
  return bit_cast<typename Bits16<kCount>::Float>(wide);
}

template <int kCount>
AMD_INLINE typename Bits16<kCount>::Narrow to_bf16(typename Bits16<kCount>::Float x) {
  using Wide = typename Bits16<kCount>::Wide;
  Wide bits = bit_cast<Wide>(x);
  Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Wide is_nan = bit_cast<Wide>(typename Bits16<kCount>::Mask(x != x));
  Wide result = (is_nan & 0x7fc0) | (~is_nan & rounded);
  return __builtin_convertvector(result, typename Bits16<kCount>::Narrow);
}

#if defined(AMD_AVX2)
AMD_INLINE Float8 from_f16_8(const void* p) {
  return (Float8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
AMD_INLINE __m128i to_f16_8(Float8 x) { return _mm256_cvtps_ph((__m256)x, 0); }
#endif

template <int kCount>
AMD_INLINE typename Bits16<kCount>::Float from_f16(const void* p) {
  using Bits = Bits16<kCount>;
#if defined(AMD_AVX2)
  typename Bits::Float result;
  for (int i = 0; i < kCount; i += 8) {
    Float8 part = from_f16_8((const char*)p + 2 * i);
    __builtin_memcpy((char*)&result + 4 * i, &part, sizeof(part));
  }
  return result;
#else
  // Exponent and fraction moved into place, then scaled by 2^112, which also normalises subnormals;
  // Inf and NaN get the full exponent back.
  auto h = __builtin_convertvector(read<typename Bits::Narrow>(p), typename Bits::Wide);
  auto magnitude = (h & 0x7fff) << 13;
  auto scaled = bit_cast<typename Bits::Wide>(bit_cast<typename Bits::Float>(magnitude) * 0x1p112f);
  auto special = bit_cast<typename Bits::Wide>(typename Bits::Mask(magnitude >= (0x7c00u << 13)));
  return bit_cast<typename Bits::Float>(scaled | (special & 0x7f800000u) | ((h & 0x8000u) << 16));
#endif
}

template <int kCount>
AMD_INLINE typename Bits16<kCount>::Narrow to_f16(typename Bits16<kCount>::Float x) {
  using Bits = Bits16<kCount>;
#if defined(AMD_AVX2)
  typename Bits::Narrow result;
  for (int i = 0; i < kCount; i += 8) {
    Float8 part;
    __builtin_memcpy(&part, (const char*)&x + 4 * i, sizeof(part));
    __m128i half = to_f16_8(part);
    __builtin_memcpy((char*)&result + 2 * i, &half, sizeof(half));
  }
  return result;
#else
  using Wide = typename Bits::Wide;
  using Float = typename Bits::Float;
  Wide bits = bit_cast<Wide>(x);
  Wide sign = (bits >> 16) & 0x8000;
  Wide magnitude = bits & 0x7fffffff;
  // Normal results: re-bias the exponent and round to nearest even.
  Wide normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Results below 2^-14: adding 1/2 puts the last fraction bit of a half at the last bit of a
  // float.
  Wide tiny = bit_cast<Wide>(bit_cast<Float>(magnitude) + 0.5f) - 0x3f000000u;
  Wide is_tiny = bit_cast<Wide>(typename Bits::Mask(magnitude < 0x38800000u));
  Wide result = (is_tiny & tiny) | (~is_tiny & normal);
  Wide overflows = bit_cast<Wide>(typename Bits::Mask(magnitude >= 0x477ff000u));
  result = (overflows & 0x7c00) | (~overflows & result);
  Wide is_nan = bit_cast<Wide>(typename Bits::Mask(magnitude > 0x7f800000u));
  result = ((is_nan & 0x7e00) | (~is_nan & result)) | sign;
  return __builtin_convertvector(result, typename Bits::Narrow);
#endif
}

// --- Memory<T, S>: elements stored as S, computed as T.

template <typename T, typename S>
struct Memory;

template <typename T>
struct Memory<T, T> {
  static AMD_INLINE Vec<T> load(const T* p) { return read<Vec<T>>(p); }
  static AMD_INLINE Vec<T> pack(Vec<T> v) { return v; }
  static AMD_INLINE T load_one(const T* p) { return *p; }
};
template <>
struct Memory<double, float> {
  static AMD_INLINE Vec<double> load(const float* p) {
    return __builtin_convertvector(read<Float8>(p), Vec<double>);
  }
  static AMD_INLINE Float8 pack(Vec<double> v) { return __builtin_convertvector(v, Float8); }
};
template <>
struct Memory<float, Bf16> {
  static AMD_INLINE Vec<float> load(const Bf16* p) {
    return from_bf16<16>(read<Bits16<16>::Narrow>(p));
  }
  static AMD_INLINE Bits16<16>::Narrow pack(Vec<float> v) { return to_bf16<16>(v); }
};
template <>
struct Memory<float, F16> {
  static AMD_INLINE Vec<float> load(const F16* p) { return from_f16<16>(p); }
  static AMD_INLINE Bits16<16>::Narrow pack(Vec<float> v) { return to_f16<16>(v); }
};
template <>
struct Memory<double, Bf16> {
  static AMD_INLINE Vec<double> load(const Bf16* p) {
    return __builtin_convertvector(from_bf16<8>(read<Bits16<8>::Narrow>(p)), Vec<double>);
  }
  static AMD_INLINE Bits16<8>::Narrow pack(Vec<double> v) {
    return to_bf16<8>(__builtin_convertvector(v, Float8));
  }
};
template <>
struct Memory<double, F16> {
  static AMD_INLINE Vec<double> load(const F16* p) {
    return __builtin_convertvector(from_f16<8>(p), Vec<double>);
  }
  static AMD_INLINE Bits16<8>::Narrow pack(Vec<double> v) {
    return to_f16<8>(__builtin_convertvector(v, Float8));
  }
};

template <typename T, typename S>
AMD_INLINE Vec<T> load(const S* p) {
  return Memory<T, S>::load(p);
}

template <typename T, typename S>
AMD_INLINE void store(S* p, Vec<T> v) {
  write(p, Memory<T, S>::pack(v));
}

// The first `count` elements, zeros behind them: for where memory may end.
template <typename T, typename S>
AMD_INLINE Vec<T> load_first(const S* p, int64_t count) {
  S buffer[kLanes<T>] = {};
  __builtin_memcpy(buffer, p, count * sizeof(S));
  return load<T>(buffer);
}

template <typename T, typename S>
AMD_INLINE void store_first(S* p, Vec<T> v, int64_t count) {
  S buffer[kLanes<T>];
  store<T>(buffer, v);
  __builtin_memcpy(p, buffer, count * sizeof(S));
}

// Past the caches: the line is not read before it is written. `p` is aligned to the packed vector's
// size.
template <typename T, typename S>
AMD_INLINE void stream(S* p, Vec<T> v) {
  auto packed = Memory<T, S>::pack(v);
#if defined(__SSE2__)
  char* to = (char*)p;
  const char* from = (const char*)&packed;
#if defined(AMD_AVX512)
  if (sizeof(packed) == 64) return _mm512_stream_si512((__m512i*)to, _mm512_loadu_si512(from));
#endif
#if defined(AMD_AVX2)
  for (size_t i = 0; sizeof(packed) >= 32 && i < sizeof(packed); i += 32)
    _mm256_stream_si256((__m256i*)(to + i), _mm256_loadu_si256((const __m256i*)(from + i)));
  if (sizeof(packed) >= 32) return;
#endif
  for (size_t i = 0; i < sizeof(packed); i += 16)
    _mm_stream_si128((__m128i*)(to + i), _mm_loadu_si128((const __m128i*)(from + i)));
#else
  write(p, packed);
#endif
}

// Streamed lines become visible to other threads in order only after this.
AMD_INLINE void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

template <typename T>
AMD_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// All bits set in the lanes below `count`.
template <typename T>
AMD_INLINE IntVec<T> first_lanes(int64_t count) {
  using Index = typename Lanes<T>::Index;
  IntVec<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = Index(i);
  return lane < Index(count < kLanes<T> ? count : kLanes<T>);
}

template <typename T>
AMD_INLINE double horizontal_sum(Vec<T> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

}  // namespace AMD_ISA
}  // namespace amd_fused
