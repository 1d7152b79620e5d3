// SPDX-License-Identifier: Apache-2.0
// Launching kernels, and the types they see. For .cu files: torch-free; SPANBERT_EXT_EMULATE_CUDA compiles
// them with a plain C++ compiler against tests/emulated_cuda instead of CUDA.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "common/float_type.h"
#include "common/integers.h"

namespace spanbert_ext {

constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// A grid of x times y blocks. More than CUDA has, or none, is a grid of none, which `launch` refuses: a number of
// blocks that is narrowed would leave rows out.
constexpr dim3 grid_of(int64_t x, int64_t y = 1) {
  constexpr int64_t kMost = 0x7fffffff, kMostInY = 65535;
  if (x < 1 || y < 1 || x > kMost || y > kMostInY) return dim3(0);
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
}
static_assert(grid_of(0x7fffffff, 65535).x == 0x7fffffff && grid_of(3, 65535).y == 65535);
static_assert(grid_of(int64_t{1} << 31).x == 0 && grid_of((int64_t{1} << 32) + 1).x == 0);
static_assert(grid_of(1, 65536).x == 0 && grid_of(0).x == 0 && grid_of(1, 0).x == 0 && grid_of(-1).x == 0);

// The dynamic shared memory of a kernel as an array of `type`.
#ifdef SPANBERT_EXT_EMULATE_CUDA
#define SPANBERT_EXT_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(emulated_cuda::dynamic_shared())
#else
#define SPANBERT_EXT_DYNAMIC_SHARED(type, name)      \
  extern __shared__ __align__(16) char raw_##name[]; \
  type* const name = reinterpret_cast<type*>(raw_##name)
#endif

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...); any size of shared memory that the device has.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (grid.x == 0) return cudaErrorInvalidConfiguration;
#ifdef SPANBERT_EXT_EMULATE_CUDA
  static_cast<void>(stream);
  return emulated_cuda::run(grid, block, shared_bytes,
                            [&] { kernel(static_cast<Parameters>(arguments)...); });
#else
  // More than 48 KB, a kernel's own arrays included, must be set as its limit. It is set to all that there is,
  // so that two threads which launch one kernel with different sizes set the same.
  constexpr size_t kBytesWithoutLimit = 32 * 1024;
  if (shared_bytes > kBytesWithoutLimit) {
    int device = 0, most = 0;
    cudaFuncAttributes own{};
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
      error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&own, kernel);
    if (error == cudaSuccess)
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   most - static_cast<int>(own.sharedSizeBytes));
    if (error != cudaSuccess) return error;
  }
  // clang-format off: it takes >>> for the end of templates
  kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  // clang-format on
  return cudaGetLastError();
#endif
}

// --- Floating-point types: stored as T, computed with as Accumulate<T> ---------------------------------------

template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

template <typename T>
__device__ __forceinline__ T narrow(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

// N values moved as one access; the address must be a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};
constexpr int kPackBytes = 16;
template <typename T>
constexpr int kPackValues = kPackBytes / sizeof(T);

// Calls function.operator()<T>() with the C++ type of `type`.
template <typename Function>
cudaError_t dispatch_float(FloatType type, const Function& function) {
  switch (type) {
    case FloatType::kDouble:
      return function.template operator()<double>();
    case FloatType::kFloat:
      return function.template operator()<float>();
    case FloatType::kBFloat16:
      return function.template operator()<__nv_bfloat16>();
    case FloatType::kHalf:
      return function.template operator()<__half>();
  }
  return cudaErrorInvalidValue;
}

// --- Reductions over the lanes of a warp and the threads of a block -------------------------------------------
// In one order whatever the timing: the same input gives the same bits. A struct needs its own shuffle_xor.

template <typename V>
__device__ __forceinline__ V shuffle_xor(V value, int lane_bits) {
  return __shfl_xor_sync(kAllLanes, value, lane_bits);
}

struct Add {
  template <typename V>
  __device__ __forceinline__ V operator()(V a, V b) const {
    return a + b;
  }
};

// Every lane gets the result.
template <typename V, typename Combine>
__device__ __forceinline__ V reduce_warp(V value, Combine combine) {
#pragma unroll
  for (int lane_bits = kWarpLanes / 2; lane_bits > 0; lane_bits /= 2) {
    value = combine(value, shuffle_xor(value, lane_bits));
  }
  return value;
}

// Every thread gets the result. For blocks of [n * 32] threads; `scratch` is shared memory for 32 values and
// may be used again at once.
template <typename V, typename Combine>
__device__ __forceinline__ V reduce_block(V value, V identity, Combine combine, V* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  value = reduce_warp(value, combine);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarpLanes ? scratch[lane] : identity;
  __syncthreads();
  return reduce_warp(value, combine);
}

}  // namespace spanbert_ext
