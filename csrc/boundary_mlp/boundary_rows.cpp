// SPDX-License-Identifier: Apache-2.0
#include "boundary_mlp/boundary_rows.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace spanbert_ext {
at::Tensor make_operand(const at::Tensor& weight, int64_t columns, at::ScalarType compute) {
  const auto options = weight.options().dtype(compute);
  if (is_operand(weight, columns, compute)) return at::empty({0}, options);
  const at::Tensor operand = at::empty({weight.size(0), columns}, options);
  operand.narrow(1, 0, weight.size(1)).copy_(weight);
  const int64_t padding = columns - weight.size(1);
  if (padding > 0) operand.narrow(1, weight.size(1), padding).zero_();
  return operand;
}

at::Tensor index_tensor(const char* name, const at::Tensor& tensor, const BoundarySizes& sizes) {
  check_index_dtype(name, tensor);
  TORCH_CHECK_VALUE(tensor.sizes() == at::IntArrayRef({sizes.batch, sizes.targets}), "boundary_mlp: ", name,
                    " has shape ", tensor.sizes(), "; expected [B, K] = [", sizes.batch, ", ", sizes.targets,
                    "]");
  return tensor.to(at::kLong).contiguous();
}

at::Tensor token_row_tensor(const BoundaryInputs& inputs) {
  if (!inputs.token_rows) return at::empty({0}, inputs.x.options().dtype(at::kLong));
  check_index_dtype("token_rows", *inputs.token_rows);
  return inputs.token_rows->to(at::kLong).contiguous();
}

int64_t row_capacity(std::optional<int64_t> max_rows, const BoundarySizes& sizes) {
  const int64_t total = sizes.total();
  if (!max_rows) return total;
  TORCH_CHECK_VALUE(*max_rows >= 0, "boundary_mlp: max_rows is ", *max_rows, "; expected at least 0");
  return std::min(*max_rows, total);
}

BoundaryRows live_rows(const BoundaryInputs& inputs, const BoundarySizes& sizes) {
  const at::Tensor tensors[3] = {index_tensor("masked_positions", inputs.masked_positions, sizes).cpu(),
                                 index_tensor("left_boundary", inputs.left_boundary, sizes).cpu(),
                                 index_tensor("right_boundary", inputs.right_boundary, sizes).cpu()};
  const char* names[3] = {"masked_positions", "left_boundary", "right_boundary"};
  const int64_t* values[3];
  for (int i = 0; i < 3; ++i) values[i] = tensors[i].const_data_ptr<int64_t>();

  BoundaryRows rows;
  for (int64_t row = 0; row < sizes.total(); ++row) {
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
  TORCH_CHECK_VALUE(rows.size() <= row_capacity(inputs.max_rows, sizes), "boundary_mlp: max_rows is ",
                    *inputs.max_rows, "; expected at least ", rows.size(), ", the rows that have a target");
  return rows;
}

TokenList live_token_rows(const BoundaryInputs& inputs, const BoundarySizes& sizes) {
  const at::Tensor tokens = token_row_tensor(inputs).cpu();
  const auto* const values = tokens.const_data_ptr<int64_t>();
  TokenList list;
  for (int64_t row = 0; row < sizes.token_rows; ++row) {
    TORCH_CHECK_INDEX(values[row] >= -1 && values[row] < sizes.tokens(), "boundary_mlp: token_rows[", row,
                      "] is ", values[row], "; expected -1 or a token in [0, B*L) = [0, ", sizes.tokens(),
                      ")");
    if (values[row] < 0) continue;
    list.row.push_back(row);
    list.token.push_back(values[row]);
  }
  return list;
}

}  // namespace spanbert_ext
