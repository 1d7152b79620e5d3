// SPDX-License-Identifier: Apache-2.0
// Just enough of CUDA's language and runtime to compile this project's kernels with a plain C++ compiler and
// run them on the CPU (SPANBERT_EXT_CUDA=EMULATE): blocks one after the other, the threads of a block as
// fibers that switch at barriers and warp intrinsics. Slow and exact; sanitisers see every access. Between
// barriers the threads run in a random order (fixed seed), so that a missing barrier shows; what it cannot
// show is how fast a kernel is and what needs real concurrency.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorInvalidConfiguration };
// Less than any GPU has, so that small tests meet the case of too little.
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 64 * 1024;
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid launch configuration";
}

inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulated_cuda {

constexpr size_t kMaxSharedBytes = 227 * 1024;  // of Hopper, the most of all architectures built for

// Runs `body` as every thread of every block.
cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
void* dynamic_shared();
void block_barrier();
// All lanes of `mask` meet; each leaves `bits` and reads what lane `source(lane)` left.
void warp_barrier(unsigned mask);
uint64_t warp_exchange(unsigned mask, uint64_t bits, int source_lane);
unsigned warp_ballot(unsigned mask, bool predicate);
int lane();

template <typename T>
T exchange(unsigned mask, T value, int source_lane) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_exchange(mask, bits, source_lane);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulated_cuda

inline void __syncthreads() { emulated_cuda::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulated_cuda::warp_barrier(mask); }
inline void __threadfence() {}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulated_cuda::exchange(mask, value, source & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulated_cuda::exchange(mask, value, emulated_cuda::lane() ^ bits);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int lane = emulated_cuda::lane();
  return emulated_cuda::exchange(mask, value,
                                 lane < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
  const int lane = emulated_cuda::lane();
  return emulated_cuda::exchange(mask, value,
                                 lane + static_cast<int>(delta) > 31 ? lane : lane + static_cast<int>(delta));
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  return emulated_cuda::warp_ballot(mask, predicate);
}
inline bool __any_sync(unsigned mask, bool predicate) {
  return emulated_cuda::warp_ballot(mask, predicate) != 0;
}
inline bool __all_sync(unsigned mask, bool predicate) {
  return emulated_cuda::warp_ballot(mask, predicate) == mask;
}

// One thread runs at a time: plain reads and writes are atomic.
template <typename T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old + value;
  return old;
}
template <typename T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::max(old, value);
  return old;
}
template <typename T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = std::min(old, value);
  return old;
}
template <typename T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  const T old = *address;
  *address = old | value;
  return old;
}
template <typename T>
void __stwb(T* address, T value) {
  *address = value;
}
template <typename T>
T __ldg(const T* address) {
  return *address;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof(x));
  return bits;
}
// Never contracted into a fused multiply-add, also where the compiler contracts other products.
inline float __fmul_rn(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline double __dmul_rn(double a, double b) {
  const volatile double product = a * b;
  return product;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
using std::max;
using std::min;
