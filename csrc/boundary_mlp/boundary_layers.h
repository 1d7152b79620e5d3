// SPDX-License-Identifier: Apache-2.0
// Tensor-level pieces of boundary_mlp: row moves and one (GELU, LayerNorm) epilogue with its backward.
#pragma once
#include <ATen/core/Tensor.h>

#include "boundary_mlp/boundary_mlp_kernel.h"

namespace spanbert_ext {

RowView rows_of(const at::Tensor& matrix, const int64_t* index = nullptr);

// Gathers (`from` with an index) or scatters (`to` with an index) rows; converts between dtypes.
void copy(const RowView& from, const RowView& to, int64_t rows, int64_t columns);
// to[row] = a[row] + b[row]
void sum(const RowView& a, const RowView& b, const RowView& to, int64_t rows, int64_t columns);
// to[row] += from[row]. Threads own columns and take the rows in order: rows that meet in one target are
// added in one order, whatever the number of threads.
void add(const RowView& from, const RowView& to, int64_t rows, int64_t columns);

// The parameters of one (Linear, GELU, LayerNorm) layer in the dtypes of the computation.
struct Layer {
  at::Tensor weight;
  at::Tensor bias, gain, shift;  // accumulate dtype, contiguous
  int64_t statistics_column;     // of the mean; 1/std follows
};

// out row = LayerNorm(GELU(z + bias)); fills the layer's columns of statistics [rows, 4].
void apply_layer(const Layer& layer, const at::Tensor& z, const at::Tensor& statistics, double eps,
                 const RowView& out);

// Turns grad_out into grad_z (accumulate dtype), adds the gradients of bias, gain and shift to sums
// [3, columns] and recomputes the layer's output where `out` is defined.
void apply_layer_backward(const Layer& layer, const at::Tensor& z, const at::Tensor& statistics,
                          const RowView& grad_out, const at::Tensor& grad_z, const at::Tensor& out,
                          const at::Tensor& sums);

}  // namespace spanbert_ext
