// SPDX-License-Identifier: Apache-2.0
// boundary_mlp on CUDA: the semantics of boundary_mlp.h, with the live rows compacted on the device. Fused:
// the gather of the boundaries, and each layer's bias, GELU and LayerNorm with their gradients.
//
// GEMMs have R rows, a bound that the host has; rows from the device's count on are zero and only cost
// time. The first Linear's input is [x[left] | x[right] | positions[slot]], gathered in the compute dtype.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "common/float_type.h"
#include "common/host_device.h"

namespace spanbert_ext {

// Where one compact row reads and writes.
struct BoundaryRow {
  int64_t row = -1;             // in [0, B * K), or -1: there are fewer compact rows
  bool is_live = false;         // the rest is set
  int64_t left = 0, right = 0;  // tokens in [0, B * L)
  int64_t slot = 0;             // in [0, S)
};

struct BoundaryIndex {
  const int64_t *masked_positions, *left_boundary, *right_boundary;  // [B * K]
  const int64_t* rows;                                               // [B * K], the first *count are set
  const int64_t* count;                                              // [1]
  int64_t capacity;                                                  // R
  int64_t total, targets;                                            // B * K, K
  int64_t length, slots;                                             // L, S
};

// Rows with indices that fit nothing, and rows past the capacity, have a `row` and nothing to read.
SPANBERT_EXT_HOST_DEVICE BoundaryRow boundary_row(const BoundaryIndex& index, int64_t i) {
  BoundaryRow result;
  if (i >= *index.count) return result;
  result.row = index.rows[i];
  const int64_t position = index.masked_positions[result.row], left = index.left_boundary[result.row],
                right = index.right_boundary[result.row];
  const bool in_order = left >= 0 && left < position && position < right && right < index.length;
  if (i >= index.capacity || !in_order || position - left - 1 >= index.slots) return result;
  result.is_live = true;
  const int64_t first_token = result.row / index.targets * index.length;
  result.left = first_token + left;
  result.right = first_token + right;
  result.slot = position - left - 1;
  return result;
}

// Whether row `row` of [B * K] is among the compact rows; where one of two boundaries is missing it is, so
// that y can show the mistake.
SPANBERT_EXT_HOST_DEVICE bool is_kept(const BoundaryIndex& index, int64_t row) {
  return index.left_boundary[row] >= 0 || index.right_boundary[row] >= 0;
}

struct Tokens {
  FloatType type;
  const void* x;                       // [B, L, H]
  int64_t batch_stride, token_stride;  // elements; H is contiguous
  int64_t length, hidden;              // L, H
};
SPANBERT_EXT_HOST_DEVICE int64_t token_offset(const Tokens& tokens, int64_t token) {
  return token / tokens.length * tokens.batch_stride + token % tokens.length * tokens.token_stride;
}

// out[i - first] = [x[left] | x[right] | positions[slot] | zeros] for compact rows [first, first + rows).
struct GatherBoundaries {
  BoundaryIndex index;
  int64_t first, rows;
  Tokens tokens;
  FloatType positions_type;
  const void* positions;  // [S, P]
  int64_t position_columns;
  FloatType type;
  void* out;      // [rows, pitch]
  int64_t pitch;  // at least 2H + P
};
cudaError_t launch_gather_boundaries(const GatherBoundaries& task, cudaStream_t stream);

// Which tokens are handed out as rows: [R], -1 where none is.
struct TokenIndex {
  const int64_t* token;
  int64_t rows;    // R
  int64_t tokens;  // B * L
};

// out[i] = x[token[i]], zero where that is -1 and NaN where there is no such token.
struct GatherTokens {
  TokenIndex index;
  Tokens tokens;
  void* out;  // [R, H] of x's type
};
cudaError_t launch_gather_tokens(const GatherTokens& task, cudaStream_t stream);

// out = LayerNorm(GELU(z + bias)) * gain + shift. Rows that are not live: zero, as their statistics; in y the
// rows with invalid indices and those past the capacity become NaN.
struct NormLayerForward {
  BoundaryIndex index;
  int64_t columns;
  double eps;
  FloatType type;
  const void* z;                    // [R, columns]
  const void *bias, *gain, *shift;  // [columns], accumulate type
  void *mean, *rstd;                // of row 0, accumulate type; of row i 4 * i further on
  FloatType out_type;
  void* out;  // [R, columns], or y: [B * K, columns]
  bool out_is_y;
};
cudaError_t launch_norm_layer_forward(const NormLayerForward& layer, cudaStream_t stream);

// Zero for rows that are not live. A block takes rows_per_block rows and leaves their sums.
struct NormLayerBackward {
  BoundaryIndex index;
  int64_t columns;
  FloatType type;
  const void* z;                    // [R, columns]
  const void *bias, *gain, *shift;  // [columns], accumulate type
  const void *mean, *rstd;
  FloatType grad_out_type;
  const void* grad_out;  // [R, columns], or the gradient of y: [B * K, columns]
  bool grad_out_is_of_y;
  void* grad_z;  // [R, columns]; may be grad_out
  void* out;     // the layer's output again, [R, columns], or null
  void* sums;    // [blocks, 3, columns] accumulate type: gradients of bias, gain, shift
  int64_t rows_per_block;
};
cudaError_t launch_norm_layer_backward(const NormLayerBackward& layer, cudaStream_t stream);

// Between which rows each token is. Zeros mean none, so that maxima can be taken in any order: `from_end` is
// the number of rows - the first row, `end` the last row + 1.
struct RowRange {
  unsigned long long from_end, end;
};
// Of the compact rows that have the token on their left, on their right; of the rows that hand it out.
struct TokenRows {
  RowRange *left, *right, *own;  // [B * L]
};
struct FindTokenRows {
  BoundaryIndex boundaries;
  TokenIndex handed_out;
  TokenRows ranges;  // zeros
};
cudaError_t launch_find_token_rows(const FindTokenRows& task, cudaStream_t stream);

// Columns [first_column, first_column + columns) of grad_x: every token sums, in row order, the rows of
// `grads` that it bounds, then the rows of grad_rows that hand it out, and rounds once. Tokens without rows
// get zero. No atomics: the bits do not vary.
struct SumIntoTokens {
  BoundaryIndex boundaries;
  TokenIndex handed_out;
  TokenRows ranges;
  int64_t hidden, first_column, columns;
  FloatType accumulate_type;
  const void* grads;  // [R, 2 * columns]: of x[left] and of x[right]
  FloatType x_type;
  const void* grad_rows;  // [R, H]
  void* grad_x;           // [B * L, H]
};
cudaError_t launch_sum_into_tokens(const SumIntoTokens& task, cudaStream_t stream);

// Sums of the compact rows of each slot, in row order; one sum per group of kSlotRows rows.
constexpr int64_t kSlotRows = 2048;
struct SumBySlot {
  BoundaryIndex index;
  int64_t columns;
  FloatType type;
  const void* rows;  // [R, columns]
  void* sums;        // [groups, S, columns] accumulate type
};
cudaError_t launch_sum_by_slot(const SumBySlot& task, cudaStream_t stream);

// out = partials[0] + partials[1] + ..., each a contiguous row of `columns` values of the accumulate type.
struct PartialSum {
  const void* partials;
  int64_t count, stride, columns;
  FloatType out_type;
  void* out;
};
constexpr int kMostSums = 7;  // the vectors of two layers, and one sum more
struct SumPartials {
  FloatType accumulate_type;
  int count;
  PartialSum sums[kMostSums];
};
cudaError_t launch_sum_partials(const SumPartials& task, cudaStream_t stream);

}  // namespace spanbert_ext
