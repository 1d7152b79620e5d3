// What the CUDA kernels of vocab_ce see of a chunk of logits [rows, pitch]. Torch-free.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/float_type.h"
#include "common/host_device.h"

namespace spanbert_ext {

constexpr int kMaxBlocks = 16;  // of rows with a bias of their own: they travel as a kernel argument

struct RowBlocks {
  int count;
  int64_t first[kMaxBlocks];  // ascending, the first one 0
};

// The block that `row` lies in: the last one that begins at or before it (the ones before may be empty).
SPANBERT_EXT_HOST_DEVICE int block_of(const RowBlocks& blocks, int64_t row) {
  int block = 0;
  for (int b = 1; b < blocks.count; ++b) block += blocks.first[b] <= row ? 1 : 0;
  return block;
}

// Elements from one row of logits to the next: a multiple of 16 bytes in every dtype, whatever the
// vocabulary, because GEMMs and 16-byte accesses want it.
SPANBERT_EXT_HOST_DEVICE int64_t logits_pitch(int64_t vocab) { return (vocab + 127) / 128 * 128; }

// Types: logits are `type`; everything marked acc is float64 where type is, else float32.
struct LogitsChunk {
  FloatType type;
  void* logits;  // [rows, pitch], in: logits without bias; out: their gradient, if need_grad
  int64_t rows, vocab, pitch;
  const int64_t* row_index;  // [rows] row of h, targets, nll, or -1: no row, the gradient is zero
  RowBlocks blocks;
};

struct CrossEntropy {
  LogitsChunk chunk;
  const int64_t* row_count;  // [1] rows that take part
  int64_t capacity;          // more than these make everything NaN
  const int64_t* targets;    // [N]; one beyond the vocabulary makes its loss and its gradient NaN
  const void* row_weight;    // acc [N]
  const void* bias;          // acc [blocks, vocab], or null
  const void* grad_unit;     // acc [1]: gradients are divided by it; null for 1
  double smoothing;
  bool need_grad;
  void* nll;            // acc [N]
  void* weighted_nll;   // acc [N], row_weight * nll
  int64_t* prediction;  // [N]
};

// Loss, prediction and gradient of every row, in one reading of the logits where a row fits into shared
// memory.
cudaError_t launch_cross_entropy(const CrossEntropy& problem, cudaStream_t stream);

// partial [column_slices(rows), blocks, vocab], acc: the sums of the chunk's rows by slice and block of rows.
// The slices are fixed, so the sums are the same bits in every run.
constexpr int64_t kSliceRows = 128;
SPANBERT_EXT_HOST_DEVICE int64_t column_slices(int64_t rows) { return (rows + kSliceRows - 1) / kSliceRows; }
cudaError_t launch_column_sums(const LogitsChunk& chunk, void* partial, cudaStream_t stream);

}  // namespace spanbert_ext
