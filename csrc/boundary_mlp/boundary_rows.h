// Which rows of [B, K] take part, and where they read: the checks and index lists shared by forward and
// backward.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace spanbert_ext {

struct BoundarySizes {
  int64_t batch, length, hidden;    // x [B, L, H]
  int64_t targets;                  // indices [B, K]
  int64_t slots, position_columns;  // positions [S, P]
  int64_t inner, outer;             // weight1 [E, 2H+P], weight2 [D, E]
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

// Raise ValueError / TypeError / IndexError that name the argument, what it was and what was expected.
void check_tensor(const char* name, const at::Tensor& tensor, at::IntArrayRef expected,
                  const char* dimensions);
BoundarySizes check_inputs(const at::Tensor& x, const at::Tensor& masked_positions,
                           const at::Tensor& positions, const at::Tensor& weight1, const at::Tensor& weight2);
void check_vectors(const BoundarySizes& sizes, const at::Tensor& bias1, const at::Tensor& norm1_weight,
                   const at::Tensor& norm1_bias, const at::Tensor& bias2, const at::Tensor& norm2_weight,
                   const at::Tensor& norm2_bias);
// What the backward operator gets besides; `compute` and `accumulate` are the dtypes of the forward one.
void check_saved(const BoundarySizes& sizes, at::ScalarType x_dtype, at::ScalarType compute,
                 at::ScalarType accumulate, const at::Tensor& grad_y, const at::Tensor& z1,
                 const at::Tensor& z2, const at::Tensor& statistics);
// [B, K] as contiguous int64.
at::Tensor index_tensor(const char* name, const at::Tensor& tensor, const BoundarySizes& sizes);
// How many rows may be live: at most max_rows, where there is one.
int64_t row_capacity(std::optional<int64_t> max_rows, const BoundarySizes& sizes);
// Reads the elements of the indices, on the CPU.
BoundaryRows live_rows(const at::Tensor& masked_positions, const at::Tensor& left_boundary,
                       const at::Tensor& right_boundary, std::optional<int64_t> max_rows,
                       const BoundarySizes& sizes);

}  // namespace spanbert_ext
