// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of vocab_ce see. Torch-free.
//
// GEMMs reach full speed only where every dimension, not only every pitch, is a multiple of 16 bytes. So all
// matrices are padded: V' is the vocabulary rounded up, R the rows that take part rounded up, D' the width
// with two columns for each group's bias, rounded up.
//
//   operand  [V', D']  the decoder matrix | each group's bias, high and low part | zeros
//   compact  [R, D']   rows of h that take part, in order | 1 in the columns of the row's group | zeros
//   logits   [R, V']   a chunk of rows at a time; they hold the bias, as it is part of the product
//
// Padding rows and columns have zero gradient.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/float_type.h"
#include "common/host_device.h"
#include "common/integers.h"
#include "vocab_ce/compact_capacity.h"

namespace spanbert_ext {

constexpr int kMaxGroups = 16;  // of rows with a bias of their own: they travel as a kernel argument

// Multiples that matrices are padded to, beside kRowMultiple: a tile of the GEMMs, and one step of their
// inner loop for D'.
constexpr int64_t kVocabMultiple = 128;
constexpr int64_t kWidthBytes = 128;

// A group's rows begin at `first` and end where the next one's begin.
struct RowGroups {
  int count;
  int64_t first[kMaxGroups];  // ascending, the first one 0
};

// Rows with a target, in order.
struct LiveRows {
  const int64_t* rows;    // [N], the first *count are set
  const int64_t* count;   // [1], the last one of `starts`
  const int64_t* starts;  // [groups + 1]: the compact row at which each group begins; the last one: how many
};

// Lists the live rows; a row without a target gets its outputs here.
struct ListRows {
  const int64_t* targets;  // [N]
  int64_t total;           // N
  RowGroups groups;
  int64_t capacity;  // rows that are decoded; those beyond have no prediction and a NaN for their nll
  FloatType accumulate;
  int64_t* rows;          // [N]
  int64_t* starts;        // [groups + 1]: as in LiveRows
  int64_t* compact_rows;  // [N]: where the row went, or -1
  void* nll;              // [N] accumulate: 0 where there is no target; those of rows that are decoded stay
  int64_t* prediction;    // [N]: -1 there
};
cudaError_t launch_list_rows(const ListRows& task, cudaStream_t stream);

// Fills `operand`. A bias of -inf, or one too low for `type`, becomes forbidden<type>(), see row_kernels.h: 0
// times -inf would be NaN in the rows of the other groups. One too high becomes infinite, and does that.
struct PackDecoder {
  FloatType type, weight_type, bias_type;
  const void* weight;  // [V, D]
  const void* bias;    // [groups, V], or null
  int64_t vocab, width, rows, pitch;
  int groups;
  void* operand;       // [rows, pitch]
  int* has_forbidden;  // [groups], zeros: becomes 1 where a bias is forbidden; or null
};
cudaError_t launch_pack_decoder(const PackDecoder& task, cudaStream_t stream);

// Fills `compact`.
struct GatherHidden {
  FloatType type, h_type;
  const void* h;  // [N, D], rows `stride` elements apart
  int64_t stride, width, rows, pitch;
  LiveRows live;
  int groups;
  bool has_bias;
  void* compact;  // [rows, pitch]
};
cudaError_t launch_gather_hidden(const GatherHidden& task, cudaStream_t stream);

// Types: logits are `type`; everything marked acc is float64 where type is, else float32.
struct LogitsChunk {
  FloatType type;
  void* logits;  // [rows, pitch], in: logits; out: their gradient, if need_grad
  int64_t rows, vocab, pitch;
  int64_t first;  // the compact row that the chunk begins with
  LiveRows live;
  int groups;
};

struct CrossEntropy {
  LogitsChunk chunk;
  int64_t capacity;          // more live rows than these make everything NaN
  const int64_t* targets;    // [N]; one beyond the vocabulary makes its loss and its gradient NaN
  const void* row_weight;    // acc [N]
  const void* bias_columns;  // of type: the first bias column of operand, or null without a bias
  int64_t operand_pitch;
  const int* has_forbidden;  // [groups] or null: with smoothing, such a group's losses are infinite
  const void* grad_unit;     // acc [1]: gradients are divided by it; null for 1
  double smoothing;
  bool need_grad;
  void* nll;            // acc [N]
  void* weighted_nll;   // acc [compact rows], row_weight * nll; those that are not live are not written
  int64_t* prediction;  // [N]
};

// Loss, prediction and gradient of every row, in one reading of the logits where a row fits into shared
// memory: of 16-bit logits, and of float32 and float64.
cudaError_t launch_cross_entropy_rows(const CrossEntropy& problem, cudaStream_t stream);
cudaError_t launch_cross_entropy_wide(const CrossEntropy& problem, cudaStream_t stream);
inline cudaError_t launch_cross_entropy(const CrossEntropy& problem, cudaStream_t stream) {
  const FloatType type = problem.chunk.type;
  const bool has_16_bits = type == FloatType::kBFloat16 || type == FloatType::kHalf;
  return has_16_bits ? launch_cross_entropy_rows(problem, stream)
                     : launch_cross_entropy_wide(problem, stream);
}

// db [groups, V] (+)= the sums of the chunk's rows by group, through partial [column_slices(rows), groups,
// pitch], both acc. The slices are fixed, so the sums are the same bits in every run.
constexpr int64_t kSliceRows = 256;
SPANBERT_EXT_HOST_DEVICE int64_t column_slices(int64_t rows) { return divide_up(rows, kSliceRows); }
cudaError_t launch_column_sums(const LogitsChunk& chunk, void* partial, void* db, bool accumulate,
                               cudaStream_t stream);

// loss = the sum of weighted_nll over the live rows; NaN where more are live than the capacity. In float64,
// in one order.
struct SumLoss {
  FloatType accumulate;
  const void* weighted_nll;
  const int64_t* count;
  int64_t capacity;
  void* loss;       // [1]
  void* grad_unit;  // [1] that becomes 1, or null
};
cudaError_t launch_sum_loss(const SumLoss& task, cudaStream_t stream);

// out[n] = rows[compact_rows[n]] * scale, zero where that is negative, NaN where it lies beyond the capacity.
struct GradientRows {
  FloatType type, out_type;
  const void* rows;  // [capacity, width] of type
  int64_t capacity, width;
  const int64_t* compact_rows;  // [total]
  int64_t total;
  const void* scale;  // acc [1]
  void* out;          // [total, width] of out_type
};
cudaError_t launch_gradient_rows(const GradientRows& task, cudaStream_t stream);

// values *= scale, where the device finds that scale is not 1.
cudaError_t launch_scale(FloatType type, void* values, int64_t count, const void* scale, cudaStream_t stream);

}  // namespace spanbert_ext
