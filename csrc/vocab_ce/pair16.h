// SPDX-License-Identifier: Apache-2.0
// Two neighbouring 16-bit values in a 32-bit word, the first one in the lower half; for .cu files.
#pragma once

#include <cstring>

#include "common/cuda_launch.h"

namespace spanbert_ext {

template <typename To, typename From>
__device__ __forceinline__ To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <typename T>
struct Pair16;

template <>
struct Pair16<__nv_bfloat16> {
  static constexpr uint32_t kMinusInfinity = 0xff80u;  // one value
  static __device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
  static __device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
  static __device__ __forceinline__ uint32_t make(float low, float high) {
    return same_bits<uint32_t>(__floats2bfloat162_rn(low, high));
  }
  static __device__ __forceinline__ uint32_t maximum(uint32_t a, uint32_t b) {
    return same_bits<uint32_t>(__hmax2(same_bits<__nv_bfloat162>(a), same_bits<__nv_bfloat162>(b)));
  }
};

template <>
struct Pair16<__half> {
  static constexpr uint32_t kMinusInfinity = 0xfc00u;
  static __device__ __forceinline__ float low(uint32_t pair) { return __low2float(same_bits<__half2>(pair)); }
  static __device__ __forceinline__ float high(uint32_t pair) {
    return __high2float(same_bits<__half2>(pair));
  }
  static __device__ __forceinline__ uint32_t make(float low, float high) {
    return same_bits<uint32_t>(__floats2half2_rn(low, high));
  }
  static __device__ __forceinline__ uint32_t maximum(uint32_t a, uint32_t b) {
    return same_bits<uint32_t>(__hmax2(same_bits<__half2>(a), same_bits<__half2>(b)));
  }
};

// 2^x in one instruction, its error below that of a 16-bit result by far; 0 where that is subnormal.
__device__ __forceinline__ float exp2_approximate(float x) {
#ifdef SPANBERT_EXT_EMULATE_CUDA
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

}  // namespace spanbert_ext
