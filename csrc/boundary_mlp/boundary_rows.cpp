#include "boundary_mlp/boundary_rows.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "common/dtypes.h"

namespace spanbert_ext {
namespace {

void check_dim(const char* name, const at::Tensor& tensor, int64_t dim, const char* dimensions) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, "boundary_mlp: ", name, " has shape ", tensor.sizes(), "; expected ",
                    dimensions);
}

}  // namespace

void check_tensor(const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                  const char* dimensions) {
  check_float("boundary_mlp", name, tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.sizes() == expected, "boundary_mlp: ", name, " has shape ", tensor.sizes(),
                    "; expected ", dimensions, " = ", expected);
}

BoundarySizes check_inputs(const at::Tensor& x, const at::Tensor& masked_positions,
                           const at::Tensor& positions, const at::Tensor& weight1,
                           const at::Tensor& weight2) {
  check_dim("x", x, 3, "[B, L, H]");
  check_dim("masked_positions", masked_positions, 2, "[B, K]");
  check_dim("positions", positions, 2, "[S, P]");
  check_dim("weight1", weight1, 2, "[E, 2H+P]");
  check_dim("weight2", weight2, 2, "[D, E]");
  const BoundarySizes sizes{.batch = x.size(0),
                            .length = x.size(1),
                            .hidden = x.size(2),
                            .targets = masked_positions.size(1),
                            .slots = positions.size(0),
                            .position_columns = positions.size(1),
                            .inner = weight1.size(0),
                            .outer = weight2.size(0)};
  check_float("boundary_mlp", "x", x.scalar_type());
  check_float("boundary_mlp", "positions", positions.scalar_type());
  check_tensor("weight1", weight1, {sizes.inner, 2 * sizes.hidden + sizes.position_columns}, "[E, 2H+P]");
  check_tensor("weight2", weight2, {sizes.outer, sizes.inner}, "[D, E]");
  return sizes;
}

void check_vectors(const BoundarySizes& sizes, const at::Tensor& bias1, const at::Tensor& norm1_weight,
                   const at::Tensor& norm1_bias, const at::Tensor& bias2, const at::Tensor& norm2_weight,
                   const at::Tensor& norm2_bias) {
  check_tensor("bias1", bias1, {sizes.inner}, "[E]");
  check_tensor("norm1_weight", norm1_weight, {sizes.inner}, "[E]");
  check_tensor("norm1_bias", norm1_bias, {sizes.inner}, "[E]");
  check_tensor("bias2", bias2, {sizes.outer}, "[D]");
  check_tensor("norm2_weight", norm2_weight, {sizes.outer}, "[D]");
  check_tensor("norm2_bias", norm2_bias, {sizes.outer}, "[D]");
}

void check_saved(const BoundarySizes& sizes, at::ScalarType x_dtype, at::ScalarType compute,
                 at::ScalarType accumulate, const at::Tensor& grad_y, const at::Tensor& z1,
                 const at::Tensor& z2, const at::Tensor& statistics) {
  const auto check = [](const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                        const char* dimensions, at::ScalarType dtype) {
    check_tensor(name, tensor, expected, dimensions);
    TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "boundary_mlp: ", name, " has dtype ",
                     tensor.scalar_type(), ", expected ", dtype);
  };
  const int64_t total = sizes.batch * sizes.targets;
  check("grad_y", grad_y, {sizes.batch, sizes.targets, sizes.outer}, "[B, K, D]", x_dtype);
  check("z1", z1, {total, sizes.inner}, "[B*K, E]", compute);
  check("z2", z2, {total, sizes.outer}, "[B*K, D]", compute);
  check("statistics", statistics, {total, 4}, "[B*K, 4]", accumulate);
}

at::Tensor index_tensor(const char* name, const at::Tensor& tensor, const BoundarySizes& sizes) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kLong || type == at::kInt, "boundary_mlp: ", name, " has dtype ", type,
                   "; expected int64 or int32");
  TORCH_CHECK_VALUE(tensor.sizes() == at::IntArrayRef({sizes.batch, sizes.targets}), "boundary_mlp: ", name,
                    " has shape ", tensor.sizes(), "; expected [B, K] = [", sizes.batch, ", ", sizes.targets,
                    "]");
  return tensor.to(at::kLong).contiguous();
}

int64_t row_capacity(std::optional<int64_t> max_rows, const BoundarySizes& sizes) {
  const int64_t total = sizes.batch * sizes.targets;
  if (!max_rows) return total;
  TORCH_CHECK_VALUE(*max_rows >= 0, "boundary_mlp: max_rows is ", *max_rows, "; expected at least 0");
  return std::min(*max_rows, total);
}

BoundaryRows live_rows(const at::Tensor& masked_positions, const at::Tensor& left_boundary,
                       const at::Tensor& right_boundary, std::optional<int64_t> max_rows,
                       const BoundarySizes& sizes) {
  const at::Tensor tensors[3] = {index_tensor("masked_positions", masked_positions, sizes),
                                 index_tensor("left_boundary", left_boundary, sizes),
                                 index_tensor("right_boundary", right_boundary, sizes)};
  const char* names[3] = {"masked_positions", "left_boundary", "right_boundary"};
  const int64_t* values[3];
  for (int i = 0; i < 3; ++i) values[i] = tensors[i].const_data_ptr<int64_t>();

  BoundaryRows rows;
  for (int64_t row = 0; row < sizes.batch * sizes.targets; ++row) {
    const int64_t b = row / sizes.targets, k = row % sizes.targets;
    for (int i = 0; i < 3; ++i) {
      TORCH_CHECK_INDEX(values[i][row] >= -1 && values[i][row] < sizes.length, "boundary_mlp: ", names[i],
                        "[", b, ", ", k, "] is ", values[i][row], "; expected -1 or a position in [0, ",
                        sizes.length, ")");
    }
    const int64_t position = values[0][row], left = values[1][row], right = values[2][row];
    TORCH_CHECK_VALUE((left < 0) == (right < 0), "boundary_mlp: left_boundary[", b, ", ", k, "] is ", left,
                      " and right_boundary[", b, ", ", k, "] is ", right,
                      "; expected two positions, or -1 in both for a row without a target");
    if (left < 0) continue;
    TORCH_CHECK_VALUE(left < position && position < right, "boundary_mlp: masked_positions[", b, ", ", k,
                      "] is ", position, "; expected a position between left_boundary ", left,
                      " and right_boundary ", right);
    const int64_t slot = position - left - 1;
    TORCH_CHECK_INDEX(slot < sizes.slots, "boundary_mlp: masked_positions[", b, ", ", k, "] = ", position,
                      " lies in position slot ", slot, " after left_boundary ", left,
                      "; expected a slot in [0, ", sizes.slots, "), the rows of positions");
    const int64_t left_token = b * sizes.length + left, right_token = b * sizes.length + right;
    if (rows.spans() == 0 || rows.span_left.back() != left_token || rows.span_right.back() != right_token) {
      rows.span_left.push_back(left_token);
      rows.span_right.push_back(right_token);
    }
    rows.row.push_back(row);
    rows.slot.push_back(slot);
    rows.span.push_back(rows.spans() - 1);
  }
  TORCH_CHECK_VALUE(rows.size() <= row_capacity(max_rows, sizes), "boundary_mlp: max_rows is ", *max_rows,
                    "; expected at least ", rows.size(), ", the rows that have a target");
  return rows;
}

}  // namespace spanbert_ext
