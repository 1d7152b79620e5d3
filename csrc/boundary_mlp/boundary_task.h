// SPDX-License-Identifier: Apache-2.0
// What forward and backward on CUDA share: the arguments as the kernels read them, and the first Linear's
// input.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "boundary_mlp/boundary_mlp_cuda.h"
#include "boundary_mlp/boundary_rows.h"
#include "common/chunks.h"
#include "common/cuda_host.h"
#include "common/integers.h"

namespace spanbert_ext {

constexpr const char* kBoundaryMlp = "boundary_mlp";
// The first Linear's input is gathered, and its gradient made, for about this many rows of 2H columns at a
// time: 50 MB in float32 at H = 768. A batch of 32x512 is one chunk.
constexpr int64_t kChunkRows = 8192;

struct BoundaryTask {
  BoundarySizes sizes;
  at::ScalarType compute, accumulate;
  at::Tensor x;          // [B, L, H], H contiguous
  at::Tensor positions;  // [S, P] contiguous
  at::Tensor masked_positions, left_boundary, right_boundary, kept, count,
      token_rows;  // memory of the indices
  BoundaryIndex index;
  TokenIndex handed_out;
  cudaStream_t stream;

  int64_t rows() const { return index.capacity; }
  at::TensorOptions options(at::ScalarType dtype) const { return x.options().dtype(dtype); }
  // The dtype in which kernels read or write a tensor of `dtype`: float64 goes with float64 alone.
  at::ScalarType stored(at::ScalarType dtype) const {
    return dtype == at::kDouble || accumulate == at::kDouble ? accumulate : dtype;
  }
  Tokens tokens() const;
};

// `kept` and `count` are forward's to fill, backward's to read.
BoundaryTask make_task(const BoundaryInputs& inputs, const BoundarySizes& sizes, const at::Tensor& kept,
                       const at::Tensor& count, cudaStream_t stream);

// The vectors of one layer, in the accumulate dtype.
struct NormParameters {
  at::Tensor bias, gain, shift;
};
NormParameters norm_parameters(const BoundaryTask& task, const at::Tensor& bias, const at::Tensor& gain,
                               const at::Tensor& shift);

// The first Linear's input [out.size(0), operand_columns], contiguous, of the compact rows from `first` on.
void gather_inputs(const BoundaryTask& task, int64_t first, const at::Tensor& out);

// Calls body(inputs, first) with one chunk of that input after the other.
template <typename Body>
void for_each_input_chunk(const BoundaryTask& task, const Body& body) {
  constexpr int64_t kTileRows = 128;  // of the products: chunks are whole tiles
  const int64_t rows = task.rows(), columns = operand_columns(task.sizes.input_columns());
  const int64_t chunk = std::min(rows, round_up(chunk_rows(rows, kChunkRows), kTileRows));
  const at::Tensor buffer = at::empty({chunk, columns}, task.options(task.compute));
  for (int64_t first = 0; first < rows; first += chunk) {
    const at::Tensor inputs = buffer.narrow(0, 0, std::min(chunk, rows - first));
    gather_inputs(task, first, inputs);
    body(inputs, first);
  }
}

}  // namespace spanbert_ext
