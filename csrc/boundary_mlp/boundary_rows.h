// SPDX-License-Identifier: Apache-2.0
// Which rows of [B, K] and of token_rows take part, and where they read: the checks and index lists shared by
// forward and backward.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "boundary_mlp/boundary_mlp.h"
#include "common/integers.h"

namespace spanbert_ext {

struct BoundarySizes {
  int64_t batch, length, hidden;    // x [B, L, H]
  int64_t targets;                  // indices [B, K]
  int64_t slots, position_columns;  // positions [S, P]
  int64_t inner, outer;             // weight1 [E, 2H+P], weight2 [D, E]
  int64_t token_rows;               // R
  int64_t total() const { return batch * targets; }
  int64_t tokens() const { return batch * length; }
  int64_t input_columns() const { return 2 * hidden + position_columns; }
};

// The live rows in the order of [B * K], and the spans (runs of live rows with one pair of boundaries) they
// lie in.
struct BoundaryRows {
  std::vector<int64_t> row;                    // in [0, B * K), one per live row
  std::vector<int64_t> slot;                   // in [0, S)
  std::vector<int64_t> span;                   // ascending, without gaps
  std::vector<int64_t> span_left, span_right;  // token in [0, B * L), one per span
  int64_t size() const { return static_cast<int64_t>(row.size()); }
  int64_t spans() const { return static_cast<int64_t>(span_left.size()); }
};

// The entries of token_rows that are not -1.
struct TokenList {
  std::vector<int64_t> row, token;  // in [0, R), in [0, B * L)
  int64_t size() const { return static_cast<int64_t>(row.size()); }
};

// Rows of products' operands hold a multiple of this many values: 16 bytes of the 16-bit types, and what
// cuBLAS needs of every dimension in them.
constexpr int64_t kOperandValues = 8;
inline int64_t operand_columns(int64_t columns) { return round_up(columns, kOperandValues); }
inline bool is_operand(const at::Tensor& weight, int64_t columns, at::ScalarType compute) {
  return weight.scalar_type() == compute && weight.size(1) == columns;
}
// weight [N, M] as [N, columns] of `compute`, padded with zeros; [0] where the weight itself is that.
at::Tensor make_operand(const at::Tensor& weight, int64_t columns, at::ScalarType compute);
inline const at::Tensor& operand_of(const at::Tensor& operand, const at::Tensor& weight) {
  return operand.dim() == 2 ? operand : weight;
}

// All checks raise ValueError / TypeError / IndexError that name the argument, what it was and what was
// expected.
BoundarySizes check_inputs(const BoundaryInputs& inputs);
void check_saved(const BoundaryMlpBackwardArguments& arguments, const BoundarySizes& sizes);
void check_index_dtype(const char* name, const at::Tensor& tensor);
// [B, K] as contiguous int64.
at::Tensor index_tensor(const char* name, const at::Tensor& tensor, const BoundarySizes& sizes);
// [R] as contiguous int64; [0] where there are none.
at::Tensor token_row_tensor(const BoundaryInputs& inputs);
// How many rows may be live: at most max_rows, where there is one.
int64_t row_capacity(std::optional<int64_t> max_rows, const BoundarySizes& sizes);
// Both read the elements, wherever these are.
BoundaryRows live_rows(const BoundaryInputs& inputs, const BoundarySizes& sizes);
TokenList live_token_rows(const BoundaryInputs& inputs, const BoundarySizes& sizes);

}  // namespace spanbert_ext
