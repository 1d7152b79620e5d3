// SPDX-License-Identifier: Apache-2.0
// The matrix products inside a task: one thread, operands near its caches, matrices row-major.
//
// oneDNN's brgemm kernels, which torch calls, do them where the CPU has AVX-512: products of operands that a
// core just wrote reach 90 % of its peak there, where one call for the whole matrix reaches 75 %. Elsewhere
// ATen multiplies.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "common/operand_pair.h"

namespace spanbert_ext {

// Whether brgemm multiplies operands of this dtype: always the same answer. It wants the right one packed; ATen packs by
// itself. bfloat16 operands are for brgemm alone: cpu_gemm_dtype says where there may be any.
bool has_brgemm(c10::ScalarType operands);

// Columns of a packed panel.
int64_t panel_columns(c10::ScalarType operands);

// What operands to multiply on this CPU for a caller that asked for `compute`: float32 in place of a reduced
// dtype that has no fast products here, or none while oneDNN is switched off (torch.backends.mkldnn); it also rounds
// less. Asked once a call: a switch in the middle of one may change no layout.
c10::ScalarType cpu_gemm_dtype(c10::ScalarType compute);

// A right operand [k, n] in panels of `columns`, the last one maybe narrower. A panel begins `step` elements behind the
// one before it, a row of it `pitch` columns behind the one before it.
template <typename T>
struct Panels {
  const T* data;
  int64_t columns, pitch, step;

  // Without gaps: [n / columns, k / pair, columns, pair].
  static Panels packed(const T* data, int64_t k, int64_t columns) {
    return {data, columns, columns, k * columns};
  }
};

// c = a @ b, or c += a @ b. Each of m, n and k may be 0.
template <typename T, typename acc_t>
struct Product {
  int64_t m, n, k;
  const T* a;  // [m, k]
  int64_t a_pitch;
  Panels<T> b;  // [k, n]
  acc_t* c;     // [m, n]
  int64_t c_pitch;
  bool accumulate;
};
template <typename T, typename acc_t>
void small_gemm(const Product<T, acc_t>& product);

// b [k, n] packed, panels of panel_columns, the last one filled up with zeros.
at::Tensor to_panels(const at::Tensor& b);

// A thread that multiplied operands of T leaves the matrix unit (AMX) as it found it.
template <typename T>
struct SmallGemmScope {
  SmallGemmScope() = default;
  SmallGemmScope(const SmallGemmScope&) = delete;
  ~SmallGemmScope();
};

}  // namespace spanbert_ext
