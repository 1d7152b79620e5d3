// boundary_mlp on CUDA: the semantics of boundary_mlp.h, with the live rows compacted on the device. Fused:
// the gather of the boundaries, and each layer's bias, GELU and LayerNorm with their gradients.
//
// GEMMs have R rows, a bound that the host knows; rows from the device's count on are zero and only cost
// time. The first Linear's input is [x[left] | x[right] | one-hot slot], its weight [W_left | W_right |
// positions @ W_position^T]: one product makes z1, and one makes the gradients of both parts.
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

// out[i - first] = [x[left] | x[right] | one-hot slot | zeros] for compact rows [first, first + rows).
struct GatherBoundaries {
  BoundaryIndex index;
  int64_t first, rows;
  int64_t hidden;
  FloatType x_type;
  const void* x;                       // [B, L, H]
  int64_t batch_stride, token_stride;  // elements; H is contiguous
  FloatType type;
  void* out;      // [rows, pitch]
  int64_t pitch;  // at least 2H + S
};
cudaError_t launch_gather_boundaries(const GatherBoundaries& task, cudaStream_t stream);

// out = LayerNorm(GELU(z + bias)) * gain + shift. Rows that are not live: zero; in y the rows with invalid
// indices and those past the capacity become NaN, the others stay.
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

// Between which compact rows each token is a boundary. Zeros mean none, so that maxima can be taken in any
// order: `from_end` is capacity - the first row, `end` the last row + 1.
struct TokenRows {
  unsigned long long from_end, end;
};
struct FindTokenRows {
  BoundaryIndex index;
  TokenRows *left, *right;  // [B * L], zeros
};
cudaError_t launch_find_token_rows(const FindTokenRows& task, cudaStream_t stream);

// Columns [first_column, first_column + columns) of grad_x: every token sums, in row order, the rows of
// `grads` that it bounds, and rounds once. Tokens that bound nothing get zero. No atomics: the bits do not
// vary.
struct SumIntoTokens {
  BoundaryIndex index;
  const TokenRows *left, *right;  // [B * L]
  int64_t tokens;                 // B * L
  int64_t hidden, first_column, columns;
  FloatType accumulate_type;
  const void* grads;  // [R, 2 * columns]: of x[left] and of x[right]
  FloatType x_type;
  void* grad_x;  // [B * L, H]
};
cudaError_t launch_sum_into_tokens(const SumIntoTokens& task, cudaStream_t stream);

}  // namespace spanbert_ext
