// SPDX-License-Identifier: Apache-2.0
// Row loops of boundary_mlp, compiled once per CPU capability. They see raw pointers and sizes only;
// arithmetic is in the accumulate type (double when z is double, else float), whatever the rows are stored
// in.
#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "common/cpu_kernels.h"

namespace spanbert_ext {

// Row r starts at element (index ? index[r] : r) * stride of `data`. Rows are contiguous.
struct RowView {
  void* data = nullptr;
  c10::ScalarType type = c10::ScalarType::Undefined;
  int64_t stride = 0;
  const int64_t* index = nullptr;
};

// out = LayerNorm(GELU(z + bias)) * gain + shift over the rows of one chunk.
struct GeluNormForward {
  int64_t columns;
  double eps;
  RowView z;                        // product of the GEMM, without bias
  const void *bias, *gain, *shift;  // [columns], accumulate type
  void *mean, *rstd;                // accumulate type, one per row
  int64_t statistics_stride;        // elements between two rows' statistics
  RowView out;
};

// The gradient of the same layer. Sums over rows are left per range of rows, so that they do not depend on the
// threads.
struct GeluNormBackward {
  int64_t columns;
  RowView z;
  const void *bias, *gain, *shift;
  const void *mean, *rstd;
  int64_t statistics_stride;
  RowView grad_out;
  RowView grad_z;  // accumulate type
  RowView out;     // recomputed output, accumulate type; data may be null
};

SPANBERT_EXT_DECLARE_CPU_KERNELS(
    // `scratch` holds 2 * columns accumulate values.
    void gelu_norm_forward(const GeluNormForward& layer, int64_t begin, int64_t end, void* scratch);

    // `scratch` holds 5 * columns values; `sums` [3, columns] receives grad_bias, grad_gain, grad_shift.
    void gelu_norm_backward(const GeluNormBackward& layer, int64_t begin, int64_t end, void* scratch,
                            void* sums);

    // Copies rows, converting between float types; `scratch` holds `columns` values.
    void copy_rows(const RowView& from, const RowView& to, int64_t columns, int64_t begin, int64_t end,
                   void* scratch);

    // to[row] = a[row] + b[row]; a and b hold accumulate values, `scratch` holds `columns`.
    void sum_rows(const RowView& a, const RowView& b, const RowView& to, int64_t columns, int64_t begin,
                  int64_t end, void* scratch);

    // to[row] += from[row], in row order, for columns [begin, end); both hold accumulate values.
    void add_rows(const RowView& from, const RowView& to, int64_t rows, int64_t begin, int64_t end);)

}  // namespace spanbert_ext
