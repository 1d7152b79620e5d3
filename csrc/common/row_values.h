// SPDX-License-Identifier: Apache-2.0
// Reading and writing N neighbouring values of a row whose type is known at run time; for .cu files.
#pragma once

#include "common/cuda_launch.h"

namespace spanbert_ext {

template <typename T, int N>
__device__ __forceinline__ Pack<Accumulate<T>, N> load_values(const T* values) {
  const Pack<T, N> stored = *reinterpret_cast<const Pack<T, N>*>(values);
  Pack<Accumulate<T>, N> result;
#pragma unroll
  for (int j = 0; j < N; ++j) result.value[j] = widen(stored.value[j]);
  return result;
}

template <typename T, int N>
__device__ __forceinline__ void store_values(T* values, const Pack<Accumulate<T>, N>& from) {
  Pack<T, N> stored;
#pragma unroll
  for (int j = 0; j < N; ++j) stored.value[j] = narrow<T>(from.value[j]);
  *reinterpret_cast<Pack<T, N>*>(values) = stored;
}

// Values [offset, offset + N) of an array of `type`, which accumulates as A. The branch is the same for a
// whole launch; a template parameter more would multiply the kernels by four.
template <typename A, int N>
__device__ __forceinline__ Pack<A, N> load_values(FloatType type, const void* data, int64_t offset) {
  if constexpr (std::is_same_v<A, double>) {
    return load_values<double, N>(static_cast<const double*>(data) + offset);
  } else {
    switch (type) {
      case FloatType::kBFloat16:
        return load_values<__nv_bfloat16, N>(static_cast<const __nv_bfloat16*>(data) + offset);
      case FloatType::kHalf:
        return load_values<__half, N>(static_cast<const __half*>(data) + offset);
      default:
        return load_values<float, N>(static_cast<const float*>(data) + offset);
    }
  }
}

template <typename A, int N>
__device__ __forceinline__ void store_values(FloatType type, void* data, int64_t offset,
                                             const Pack<A, N>& from) {
  if constexpr (std::is_same_v<A, double>) {
    store_values<double, N>(static_cast<double*>(data) + offset, from);
  } else {
    switch (type) {
      case FloatType::kBFloat16:
        return store_values<__nv_bfloat16, N>(static_cast<__nv_bfloat16*>(data) + offset, from);
      case FloatType::kHalf:
        return store_values<__half, N>(static_cast<__half*>(data) + offset, from);
      default:
        return store_values<float, N>(static_cast<float*>(data) + offset, from);
    }
  }
}

template <typename A, int N>
__device__ __forceinline__ Pack<A, N> filled(A value) {
  Pack<A, N> result;
#pragma unroll
  for (int j = 0; j < N; ++j) result.value[j] = value;
  return result;
}

inline int64_t bytes_of(FloatType type) {
  return type == FloatType::kDouble ? 8 : type == FloatType::kFloat ? 4 : 2;
}

// Whether N values at a time can be moved at every row of `data`, rows of `stride` elements.
template <int N>
bool moves_packs(FloatType type, const void* data, int64_t stride) {
  return stride % N == 0 &&
         reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(N * bytes_of(type)) == 0;
}

}  // namespace spanbert_ext
