// SPDX-License-Identifier: Apache-2.0
// Span-boundary head: y = f(x[left], x[right], positions[slot]), f = (Linear, GELU, LayerNorm) twice; and,
// with `token_rows`, the rows x[token] that other heads read, so that backward writes x's gradient once.
// Fused: the gather and both layers' bias, GELU and LayerNorm.
//
// Live rows (left_boundary >= 0) are compacted: row i of z1, z2 and statistics is the i-th live row of [B *
// K], the rest is zero. Dead rows of y are zero. max_rows: a bound of how many are live.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace spanbert_ext {

// The tensors that both operators get.
struct BoundaryTensors {
  at::Tensor x;                                                // [B, L, H]
  at::Tensor masked_positions, left_boundary, right_boundary;  // [B, K]
  at::Tensor positions;                                        // [S, P]
  at::Tensor weight1, bias1, norm1_weight, norm1_bias;         // [E, 2H+P], [E]
  at::Tensor weight2, bias2, norm2_weight, norm2_bias;         // [D, E], [D]
};

// All that both get.
struct BoundaryInputs : BoundaryTensors {
  at::ScalarType compute_dtype;
  std::optional<int64_t> max_rows;
  std::optional<at::Tensor> token_rows;  // [R]
};

struct BoundaryMlpArguments {
  BoundaryTensors tensors;
  double eps;
  at::ScalarType compute_dtype;
  std::optional<int64_t> max_rows;
  std::optional<at::Tensor> token_rows;

  BoundaryInputs inputs() const { return {tensors, compute_dtype, max_rows, token_rows}; }
};

// What forward leaves for backward.
struct BoundarySaved {
  at::Tensor z1, z2;      // [B*K, E], [B*K, D]: both Linears without bias, in compute_dtype
  at::Tensor statistics;  // [B*K, 4] float32/64: mean and 1/std of the first and of the second LayerNorm
  at::Tensor kept;        // [B*K] int64: the live rows, ascending, then -1
  at::Tensor count;       // [1] int64: how many are live
  // The weights in compute_dtype, rows padded with zeros (operand_columns); [0] where the weight itself is
  // that. CPUs read the second alone, where their products are in compute_dtype.
  at::Tensor weight1_operand, weight2_operand;
};

struct BoundaryMlpBackwardArguments {
  std::optional<at::Tensor> grad_y, grad_rows;
  BoundaryTensors tensors;
  BoundarySaved saved;
  at::ScalarType compute_dtype;
  bool need_x, need_parameters;
  std::optional<int64_t> max_rows;
  std::optional<at::Tensor> token_rows;

  BoundaryInputs inputs() const { return {tensors, compute_dtype, max_rows, token_rows}; }
};

// y [B, K, D] and rows [R, H] in x's dtype, then BoundarySaved.
using BoundaryOutputs = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                   at::Tensor, at::Tensor, at::Tensor>;
// Gradients of x, positions, weight1, bias1, norm1_weight, norm1_bias, weight2, bias2, norm2_weight,
// norm2_bias, each in its input's dtype; [0] where need_x or need_parameters (all the others) is false.
using BoundaryGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                     at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Where more rows are live than max_rows, or indices fit nothing, the CPU raises; CUDA, which cannot without
// a synchronisation, makes those rows of y and `rows` NaN and gives them no gradient.
BoundaryOutputs boundary_mlp_cpu(const BoundaryMlpArguments& arguments);
BoundaryOutputs boundary_mlp_cuda(const BoundaryMlpArguments& arguments);
BoundaryGradients boundary_mlp_backward_cpu(const BoundaryMlpBackwardArguments& arguments);
BoundaryGradients boundary_mlp_backward_cuda(const BoundaryMlpBackwardArguments& arguments);

}  // namespace spanbert_ext
