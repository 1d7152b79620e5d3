#include "boundary_mlp/boundary_rows.h"

#include <ATen/Functions.h>
#include <c10/util/Exception.h>
#include <c10/util/safe_numerics.h>

#include <algorithm>

#include "common/dtypes.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kSizeLimit = int64_t{1} << 56;

void check_dim(const char* name, const at::Tensor& tensor, int64_t dim, const char* dimensions) {
  TORCH_CHECK_VALUE(tensor.dim() == dim, "boundary_mlp: ", name, " has shape ", tensor.sizes(), "; expected ",
                    dimensions);
}

void check_tensor(const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                  const char* dimensions) {
  check_float("boundary_mlp", name, tensor.scalar_type());
  TORCH_CHECK_VALUE(tensor.sizes() == expected, "boundary_mlp: ", name, " has shape ", tensor.sizes(),
                    "; expected ", dimensions, " = ", expected);
}

void check_device(const char* name, const at::Tensor& tensor, const at::Tensor& x) {
  TORCH_CHECK_VALUE(tensor.device() == x.device(), "boundary_mlp: ", name, " is on ", tensor.device(),
                    "; expected ", x.device(), " as x");
}

void check_index_dtype(const char* name, const at::Tensor& tensor) {
  const auto type = tensor.scalar_type();
  TORCH_CHECK_TYPE(type == at::kLong || type == at::kInt, "boundary_mlp: ", name, " has dtype ", type,
                   "; expected int64 or int32");
}

bool is_operand(const at::Tensor& weight, int64_t columns, at::ScalarType compute) {
  return weight.scalar_type() == compute && weight.size(1) == columns;
}

}  // namespace

at::Tensor make_operand(const at::Tensor& weight, int64_t columns, at::ScalarType compute) {
  const auto options = weight.options().dtype(compute);
  if (is_operand(weight, columns, compute)) return at::empty({0}, options);
  const at::Tensor operand = at::empty({weight.size(0), columns}, options);
  operand.narrow(1, 0, weight.size(1)).copy_(weight);
  const int64_t padding = columns - weight.size(1);
  if (padding > 0) operand.narrow(1, weight.size(1), padding).zero_();
  return operand;
}

BoundarySizes check_inputs(const BoundaryInputs& inputs) {
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
  check_compute_dtype("boundary_mlp", "x", inputs.x.scalar_type(), inputs.compute_dtype);
  check_float("boundary_mlp", "positions", inputs.positions.scalar_type());
  check_tensor("weight1", inputs.weight1, {sizes.inner, sizes.input_columns()}, "[E, 2H+P]");
  check_tensor("weight2", inputs.weight2, {sizes.outer, sizes.inner}, "[D, E]");
  check_tensor("bias1", inputs.bias1, {sizes.inner}, "[E]");
  check_tensor("norm1_weight", inputs.norm1_weight, {sizes.inner}, "[E]");
  check_tensor("norm1_bias", inputs.norm1_bias, {sizes.inner}, "[E]");
  check_tensor("bias2", inputs.bias2, {sizes.outer}, "[D]");
  check_tensor("norm2_weight", inputs.norm2_weight, {sizes.outer}, "[D]");
  check_tensor("norm2_bias", inputs.norm2_bias, {sizes.outer}, "[D]");
  const at::Tensor& x = inputs.x;
  check_device("masked_positions", inputs.masked_positions, x);
  check_device("left_boundary", inputs.left_boundary, x);
  check_device("right_boundary", inputs.right_boundary, x);
  if (inputs.token_rows) check_device("token_rows", *inputs.token_rows, x);
  for (const at::Tensor* parameter :
       {&inputs.positions, &inputs.weight1, &inputs.bias1, &inputs.norm1_weight, &inputs.norm1_bias,
        &inputs.weight2, &inputs.bias2, &inputs.norm2_weight, &inputs.norm2_bias}) {
    check_device("a parameter", *parameter, x);
  }
  return sizes;
}

void check_saved(const BoundaryInputs& inputs, const BoundarySizes& sizes, const BoundarySaved& saved,
                 const BoundaryRequest& request) {
  const auto check = [](const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                        const char* dimensions, at::ScalarType dtype) {
    TORCH_CHECK_TYPE(tensor.scalar_type() == dtype, "boundary_mlp: ", name, " has dtype ",
                     tensor.scalar_type(), ", expected ", dtype);
    TORCH_CHECK_VALUE(tensor.sizes() == expected, "boundary_mlp: ", name, " has shape ", tensor.sizes(),
                      "; expected ", dimensions, " = ", expected);
  };
  const auto check_operand = [&](const char* name, const at::Tensor& operand, const at::Tensor& weight,
                                 int64_t columns) {
    if (is_operand(weight, columns, inputs.compute_dtype)) {
      check(name, operand, {0}, "none", inputs.compute_dtype);
    } else {
      check(name, operand, {weight.size(0), columns}, "the weight's", inputs.compute_dtype);
    }
  };
  const int64_t total = sizes.total();
  const at::ScalarType x_dtype = inputs.x.scalar_type(), compute = inputs.compute_dtype;
  if (request.grad_y)
    check("grad_y", *request.grad_y, {sizes.batch, sizes.targets, sizes.outer}, "[B, K, D]", x_dtype);
  if (request.grad_rows)
    check("grad_rows", *request.grad_rows, {sizes.token_rows, sizes.hidden}, "[R, H]", x_dtype);
  TORCH_CHECK_VALUE(request.grad_y || !request.need_parameters,
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
