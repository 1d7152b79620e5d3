// SPDX-License-Identifier: Apache-2.0
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <c10/util/safe_numerics.h>

#include "boundary_mlp/boundary_rows.h"
#include "common/checks.h"
#include "common/dtypes.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kSizeLimit = int64_t{1} << 56;

void check_dim(const char* name, const at::Tensor& tensor, int64_t dim, const char* dimensions) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, "boundary_mlp: ", name, " has shape ", tensor.sizes(), "; expected ",
                    dimensions);
}

void check_tensor(const char* name, const at::Tensor& tensor, at::ScalarType compute_dtype,
                  at::IntArrayRef expected, const char* dimensions) {
  check_compute_dtype("boundary_mlp", name, tensor.scalar_type(), compute_dtype);
  TORCH_CHECK_VALUE(tensor.sizes() == expected, "boundary_mlp: ", name, " has shape ", tensor.sizes(),
                    "; expected ", dimensions, " = ", expected);
}

}  // namespace

void check_index_dtype(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kLong || type == at::kInt, "boundary_mlp: ", name, " has dtype ", type,
                   "; expected int64 or int32");
}

BoundarySizes check_inputs(const BoundaryInputs& inputs) {
  TensorArguments("boundary_mlp", "x", inputs.x)
      .check("masked_positions", inputs.masked_positions)
      .check("left_boundary", inputs.left_boundary)
      .check("right_boundary", inputs.right_boundary)
      .check("positions", inputs.positions)
      .check("weight1", inputs.weight1)
      .check("bias1", inputs.bias1)
      .check("norm1_weight", inputs.norm1_weight)
      .check("norm1_bias", inputs.norm1_bias)
      .check("weight2", inputs.weight2)
      .check("bias2", inputs.bias2)
      .check("norm2_weight", inputs.norm2_weight)
      .check("norm2_bias", inputs.norm2_bias)
      .check("token_rows", inputs.token_rows);
  check_dim("x", inputs.x, 3, "[B, L, H]");
  check_dim("masked_positions", inputs.masked_positions, 2, "[B, K]");
  check_dim("positions", inputs.positions, 2, "[S, P]");
  check_dim("weight1", inputs.weight1, 2, "[E, 2H+P]");
  check_dim("weight2", inputs.weight2, 2, "[D, E]");
  if (inputs.token_rows) check_dim("token_rows", *inputs.token_rows, 1, "[R]");
  const BoundarySizes sizes{.batch = inputs.x.size(0),
                            .length = inputs.x.size(1),
                            .hidden = inputs.x.size(2),
                            .targets = inputs.masked_positions.size(1),
                            .slots = inputs.positions.size(0),
                            .position_columns = inputs.positions.size(1),
                            .inner = inputs.weight1.size(0),
                            .outer = inputs.weight2.size(0),
                            .token_rows = inputs.token_rows ? inputs.token_rows->size(0) : 0};
  // Where one dimension is 0 the others may be of any size, and their products beyond int64.
  int64_t tokens = 0;
  TORCH_CHECK_VALUE(!c10::mul_overflows(sizes.batch, sizes.length, &tokens) && tokens < kSizeLimit &&
                        sizes.hidden < kSizeLimit,
                    "boundary_mlp: x has shape ", inputs.x.sizes(), "; expected H and B*L below 2^56");
  TORCH_CHECK_VALUE(sizes.position_columns < kSizeLimit, "boundary_mlp: positions has shape ",
                    inputs.positions.sizes(), "; expected P below 2^56");
  const at::ScalarType compute = inputs.compute_dtype;
  check_compute_dtype("boundary_mlp", "x", inputs.x.scalar_type(), compute);
  check_compute_dtype("boundary_mlp", "positions", inputs.positions.scalar_type(), compute);
  check_tensor("weight1", inputs.weight1, compute, {sizes.inner, sizes.input_columns()}, "[E, 2H+P]");
  check_tensor("weight2", inputs.weight2, compute, {sizes.outer, sizes.inner}, "[D, E]");
  check_tensor("bias1", inputs.bias1, compute, {sizes.inner}, "[E]");
  check_tensor("norm1_weight", inputs.norm1_weight, compute, {sizes.inner}, "[E]");
  check_tensor("norm1_bias", inputs.norm1_bias, compute, {sizes.inner}, "[E]");
  check_tensor("bias2", inputs.bias2, compute, {sizes.outer}, "[D]");
  check_tensor("norm2_weight", inputs.norm2_weight, compute, {sizes.outer}, "[D]");
  check_tensor("norm2_bias", inputs.norm2_bias, compute, {sizes.outer}, "[D]");
  return sizes;
}

void check_saved(const BoundaryMlpBackwardArguments& arguments, const BoundarySizes& sizes) {
  const auto& [grad_y, grad_rows, inputs, saved, compute, need_x, need_parameters, max_rows, token_rows] =
      arguments;
  TensorArguments("boundary_mlp", "x", inputs.x)
      .check("grad_y", grad_y)
      .check("grad_rows", grad_rows)
      .check("z1", saved.z1)
      .check("z2", saved.z2)
      .check("statistics", saved.statistics)
      .check("kept", saved.kept)
      .check("count", saved.count)
      .check("weight1_operand", saved.weight1_operand)
      .check("weight2_operand", saved.weight2_operand);
  const auto check = [](const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                        const char* dimensions, at::ScalarType dtype) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "boundary_mlp: ", name, " has dtype ",
                     tensor.scalar_type(), ", expected ", dtype);
    TORCH_CHECK_VALUE(tensor.sizes() == expected, "boundary_mlp: ", name, " has shape ", tensor.sizes(),
                      "; expected ", dimensions, " = ", expected);
  };
  const auto check_operand = [&, dtype = compute](const char* name, const at::Tensor& operand,
                                                  const at::Tensor& weight, int64_t columns) {
    if (is_operand(weight, columns, dtype)) {
      check(name, operand, {0}, "none", dtype);
    } else {
      check(name, operand, {weight.size(0), columns}, "the weight's", dtype);
    }
  };
  const int64_t total = sizes.total();
  const at::ScalarType x_dtype = inputs.x.scalar_type();
  if (grad_y) check("grad_y", *grad_y, {sizes.batch, sizes.targets, sizes.outer}, "[B, K, D]", x_dtype);
  if (grad_rows) check("grad_rows", *grad_rows, {sizes.token_rows, sizes.hidden}, "[R, H]", x_dtype);
  TORCH_CHECK_VALUE(grad_y || !need_parameters,
                    "boundary_mlp: grad_y is None; expected a tensor, as need_parameters is true");
  check("z1", saved.z1, {total, sizes.inner}, "[B*K, E]", compute);
  check("z2", saved.z2, {total, sizes.outer}, "[B*K, D]", compute);
  check("statistics", saved.statistics, {total, 4}, "[B*K, 4]", accumulation_dtype(compute));
  check("kept", saved.kept, {total}, "[B*K]", at::kLong);
  check("count", saved.count, {1}, "[1]", at::kLong);
  check_operand("weight1_operand", saved.weight1_operand, inputs.weight1,
                operand_columns(sizes.input_columns()));
  check_operand("weight2_operand", saved.weight2_operand, inputs.weight2, sizes.inner);
}

}  // namespace spanbert_ext
