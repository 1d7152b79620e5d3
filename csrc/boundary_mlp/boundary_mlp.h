// Span-boundary head: y = f(x[left], x[right], positions[slot]), f = (Linear, GELU, LayerNorm) twice. Fused:
// the gather and both layers' bias, GELU and LayerNorm. The first Linear is split by columns: its boundary
// part is made once per span, its position part once per slot. Never materialised: the concatenation [N,
// 2H+P].
//
// Live rows (left_boundary >= 0) are compacted: row i of z1, z2 and statistics is the i-th live row of [B *
// K], the rest is zero. Dead rows of y are zero. max_rows: what the host knows of how many are live.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

// -> y [B, K, D] in x's dtype; z1 [B*K, E], z2 [B*K, D]: both Linears without bias, in compute_dtype;
//    statistics [B*K, 4] float32/64: mean and 1/std of the first and of the second LayerNorm.
// Where more rows are live than max_rows, or indices fit nothing, the CPU raises; CUDA, which cannot without
// a synchronisation, makes those rows of y NaN and gives them no gradient.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> boundary_mlp_cpu(
    const at::Tensor& x, const at::Tensor& masked_positions, const at::Tensor& left_boundary,
    const at::Tensor& right_boundary, const at::Tensor& positions, const at::Tensor& weight1,
    const at::Tensor& bias1, const at::Tensor& norm1_weight, const at::Tensor& norm1_bias,
    const at::Tensor& weight2, const at::Tensor& bias2, const at::Tensor& norm2_weight,
    const at::Tensor& norm2_bias, double eps, at::ScalarType compute_dtype, std::optional<int64_t> max_rows);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> boundary_mlp_cuda(
    const at::Tensor& x, const at::Tensor& masked_positions, const at::Tensor& left_boundary,
    const at::Tensor& right_boundary, const at::Tensor& positions, const at::Tensor& weight1,
    const at::Tensor& bias1, const at::Tensor& norm1_weight, const at::Tensor& norm1_bias,
    const at::Tensor& weight2, const at::Tensor& bias2, const at::Tensor& norm2_weight,
    const at::Tensor& norm2_bias, double eps, at::ScalarType compute_dtype, std::optional<int64_t> max_rows);

using BoundaryGradients = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                     at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// -> gradients of x, positions, weight1, bias1, norm1_weight, norm1_bias, weight2, bias2, norm2_weight,
// norm2_bias, each
//    in its input's dtype; [0] where need_x or need_parameters (all the others) is false.
BoundaryGradients boundary_mlp_backward_cpu(
    const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& masked_positions,
    const at::Tensor& left_boundary, const at::Tensor& right_boundary, const at::Tensor& positions,
    const at::Tensor& weight1, const at::Tensor& bias1, const at::Tensor& norm1_weight,
    const at::Tensor& norm1_bias, const at::Tensor& weight2, const at::Tensor& bias2,
    const at::Tensor& norm2_weight, const at::Tensor& norm2_bias, const at::Tensor& z1, const at::Tensor& z2,
    const at::Tensor& statistics, at::ScalarType compute_dtype, bool need_x, bool need_parameters,
    std::optional<int64_t> max_rows);
BoundaryGradients boundary_mlp_backward_cuda(
    const at::Tensor& grad_y, const at::Tensor& x, const at::Tensor& masked_positions,
    const at::Tensor& left_boundary, const at::Tensor& right_boundary, const at::Tensor& positions,
    const at::Tensor& weight1, const at::Tensor& bias1, const at::Tensor& norm1_weight,
    const at::Tensor& norm1_bias, const at::Tensor& weight2, const at::Tensor& bias2,
    const at::Tensor& norm2_weight, const at::Tensor& norm2_bias, const at::Tensor& z1, const at::Tensor& z2,
    const at::Tensor& statistics, at::ScalarType compute_dtype, bool need_x, bool need_parameters,
    std::optional<int64_t> max_rows);

}  // namespace spanbert_ext
