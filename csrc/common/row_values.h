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
__device__ __forceinline__ Pack<T, N> narrow(const Pack<Accumulate<T>, N>& from) {
  Pack<T, N> result;
#pragma unroll
  for (int j = 0; j < N; ++j) result.value[j] = narrow<T>(from.value[j]);
  return result;
}

template <typename T, int N>
__device__ __forceinline__ void store_values(T* values, const Pack<Accumulate<T>, N>& from) {
  *reinterpret_cast<Pack<T, N>*>(values) = narrow<T, N>(from);
}

// To global memory, not to shared: 8 or 16 bytes are one access, where nvcc 13 makes one per value of some plain stores.
template <typename T, int N>
__device__ __forceinline__ void store_globally(T* values, const Pack<Accumulate<T>, N>& from) {
  const auto store_as = [&]<typename Word>(Word word) {
    const Pack<T, N> stored = narrow<T, N>(from);
    __builtin_memcpy(&word, &stored, sizeof(word));
    __stwb(reinterpret_cast<Word*>(values), word);
  };
  if constexpr (sizeof(Pack<T, N>) == sizeof(uint4)) {
    store_as(uint4{});
  } else if constexpr (sizeof(Pack<T, N>) == sizeof(uint2)) {
    store_as(uint2{});
  } else {
    store_values<T, N>(values, from);
  }
}

// body<T>() for the type that a launch's array has, which accumulates as A. The branch is the same for a whole launch; a
// template parameter more would multiply the kernels by four.
template <typename A, typename Body>
__device__ __forceinline__ auto with_type(FloatType type, const Body& body) {
  if constexpr (std::is_same_v<A, double>) {
    return body.template operator()<double>();
  } else {
    switch (type) {
      case FloatType::kBFloat16:
        return body.template operator()<__nv_bfloat16>();
      case FloatType::kHalf:
        return body.template operator()<__half>();
      default:
        return body.template operator()<float>();
    }
  }
}

// Values [offset, offset + N) of an array of `type`.
template <typename A, int N>
__device__ __forceinline__ Pack<A, N> load_values(FloatType type, const void* data, int64_t offset) {
  return with_type<A>(type,
                      [&]<typename T>() { return load_values<T, N>(static_cast<const T*>(data) + offset); });
}

template <typename A, int N>
__device__ __forceinline__ void store_values(FloatType type, void* data, int64_t offset,
                                             const Pack<A, N>& from) {
  with_type<A>(type, [&]<typename T>() { store_values<T, N>(static_cast<T*>(data) + offset, from); });
}

template <typename A, int N>
__device__ __forceinline__ void store_globally(FloatType type, void* data, int64_t offset,
                                               const Pack<A, N>& from) {
  with_type<A>(type, [&]<typename T>() { store_globally<T, N>(static_cast<T*>(data) + offset, from); });
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
