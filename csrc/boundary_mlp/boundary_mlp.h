// Span-boundary head: y = f(x[left], x[right], positions[slot]), f = (Linear, GELU, LayerNorm) twice; and,
// with `token_rows`, the rows x[token] for whoever else reads x, so that backward writes x's gradient once.
// Fused: the gather and both layers' bias, GELU and LayerNorm.
//
// Live rows (left_boundary >= 0) are compacted: row i of z1, z2 and statistics is the i-th live row of [B *
// K], the rest is zero. Dead rows of y are zero. max_rows: what the host knows of how many are live.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

// What both operators get.
struct BoundaryInputs {
  const at::Tensor &x, &masked_positions, &left_boundary, &right_boundary;
  const at::Tensor &positions, &weight1, &bias1, &norm1_weight, &norm1_bias;
  const at::Tensor &weight2, &bias2, &norm2_weight, &norm2_bias;
  at::ScalarType compute_dtype;
  std::optional<int64_t> max_rows;
  const std::optional<at::Tensor>& token_rows;
};

// What forward leaves for backward.
struct BoundarySaved {
  const at::Tensor &z1, &z2;  // [B*K, E], [B*K, D]: both Linears without bias, in compute_dtype
  const at::Tensor&
      statistics;           // [B*K, 4] float32/64: mean and 1/std of the first and of the second LayerNorm
  const at::Tensor& kept;   // [B*K] int64: the live rows, ascending, then -1
  const at::Tensor& count;  // [1] int64: how many are live
  // The weights in compute_dtype, rows padded with zeros (operand_columns); [0] where the weight itself is
  // that.
  const at::Tensor &weight1_operand, &weight2_operand;
};

// What backward makes gradients from, and which.
struct BoundaryRequest {
  const std::optional<at::Tensor>&grad_y, &grad_rows;
  bool need_x, need_parameters;
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
BoundaryOutputs forward_boundary_mlp_cpu(const BoundaryInputs& inputs, double eps);
BoundaryOutputs forward_boundary_mlp_cuda(const BoundaryInputs& inputs, double eps);
BoundaryGradients backward_boundary_mlp_cpu(const BoundaryInputs& inputs, const BoundarySaved& saved,
                                            const BoundaryRequest& request);
BoundaryGradients backward_boundary_mlp_cuda(const BoundaryInputs& inputs, const BoundarySaved& saved,
                                             const BoundaryRequest& request);

// The schemas' argument lists.
template <auto Forward>
BoundaryOutputs boundary_mlp(const at::Tensor& x, const at::Tensor& masked_positions,
                             const at::Tensor& left_boundary, const at::Tensor& right_boundary,
                             const at::Tensor& positions, const at::Tensor& weight1, const at::Tensor& bias1,
                             const at::Tensor& norm1_weight, const at::Tensor& norm1_bias,
                             const at::Tensor& weight2, const at::Tensor& bias2,
                             const at::Tensor& norm2_weight, const at::Tensor& norm2_bias, double eps,
                             at::ScalarType compute_dtype, std::optional<int64_t> max_rows,
                             const std::optional<at::Tensor>& token_rows) {
  return Forward({x, masked_positions, left_boundary, right_boundary, positions, weight1, bias1, norm1_weight,
                  norm1_bias, weight2, bias2, norm2_weight, norm2_bias, compute_dtype, max_rows, token_rows},
                 eps);
}

template <auto Backward>
BoundaryGradients boundary_mlp_backward(
    const std::optional<at::Tensor>& grad_y, const std::optional<at::Tensor>& grad_rows, const at::Tensor& x,
    const at::Tensor& masked_positions, const at::Tensor& left_boundary, const at::Tensor& right_boundary,
    const at::Tensor& positions, const at::Tensor& weight1, const at::Tensor& bias1,
    const at::Tensor& norm1_weight, const at::Tensor& norm1_bias, const at::Tensor& weight2,
    const at::Tensor& bias2, const at::Tensor& norm2_weight, const at::Tensor& norm2_bias,
    const at::Tensor& z1, const at::Tensor& z2, const at::Tensor& statistics, const at::Tensor& kept,
    const at::Tensor& count, const at::Tensor& weight1_operand, const at::Tensor& weight2_operand,
    at::ScalarType compute_dtype, bool need_x, bool need_parameters, std::optional<int64_t> max_rows,
    const std::optional<at::Tensor>& token_rows) {
  return Backward(
      {x, masked_positions, left_boundary, right_boundary, positions, weight1, bias1, norm1_weight,
       norm1_bias, weight2, bias2, norm2_weight, norm2_bias, compute_dtype, max_rows, token_rows},
      {z1, z2, statistics, kept, count, weight1_operand, weight2_operand},
      {grad_y, grad_rows, need_x, need_parameters});
}

inline constexpr auto& boundary_mlp_cpu = boundary_mlp<&forward_boundary_mlp_cpu>;
inline constexpr auto& boundary_mlp_cuda = boundary_mlp<&forward_boundary_mlp_cuda>;
inline constexpr auto& boundary_mlp_backward_cpu = boundary_mlp_backward<&backward_boundary_mlp_cpu>;
inline constexpr auto& boundary_mlp_backward_cuda = boundary_mlp_backward<&backward_boundary_mlp_cuda>;

}  // namespace spanbert_ext
