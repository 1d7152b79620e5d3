// SPDX-License-Identifier: Apache-2.0
// A bias of -inf, and what both cross-entropy kernels share; for .cu files.
#pragma once

#include <limits>

#include "common/cuda_launch.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {

template <typename T>
constexpr T kLowest = std::numeric_limits<T>::lowest();

// What stands for a bias of -inf in a decoder matrix: the lowest finite number that products of the type take
// exactly. A vocabulary entry with it has probability 0, and 0 times it is 0.
template <typename T>
__device__ __forceinline__ T forbidden() {
  if constexpr (std::is_same_v<T, double>) {
    return kLowest<double>;
  } else if constexpr (std::is_same_v<T, float>) {
    return __uint_as_float(0xff7fe000u);  // 10 bits of mantissa, for TF32
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(-65504.0f);
  } else {
    return __float2bfloat16_rn(__uint_as_float(0xff7f0000u));
  }
}

// Whether the bias forbids the target of a compact row, or any word while smoothing gives each a share: the loss
// is then infinite.
template <typename T>
__device__ __forceinline__ bool is_forbidden(const CrossEntropy& problem, int64_t compact_row,
                                             int64_t target) {
  const T* const bias = static_cast<const T*>(problem.bias_columns);
  if (bias == nullptr || target >= problem.chunk.vocab) return false;
  int group = 0;
  while (group + 1 < problem.chunk.groups && compact_row >= problem.chunk.live.starts[group + 1]) ++group;
  if (problem.has_forbidden != nullptr && problem.has_forbidden[group] != 0) return true;
  return widen(bias[target * problem.operand_pitch + 2 * group]) == widen(forbidden<T>());
}

// A row is kept in shared memory where two fit on a multiprocessor, with what each block takes besides: less than 1 KB of
// its own, and 1 KB that is reserved.
inline cudaError_t kept_row_limit(int64_t* bytes) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *bytes = most / 2 - 2048;
  return error;
}

}  // namespace spanbert_ext
