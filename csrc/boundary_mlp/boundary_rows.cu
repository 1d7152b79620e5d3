// The rows of boundary_mlp: gathered into the operand of a GEMM, and their gradients summed into the tokens.
#include <algorithm>

#include "boundary_mlp/boundary_mlp_cuda.h"
#include "boundary_mlp/row_values.h"

namespace spanbert_ext {
namespace {

constexpr int kValues = 8;        // moved at a time: 16 bytes of the 16-bit types
constexpr int kSummedValues = 4;  // of 8, nvcc 13 would store some one by one
constexpr int kGatherThreads = 128;
constexpr int kTokensPerBlock = 8;  // one warp each

// One block per row.
template <typename T, int N>
__global__ void __launch_bounds__(kGatherThreads, 4) gather_boundaries(GatherBoundaries task) {
  using A = Accumulate<T>;
  const BoundaryRow row = boundary_row(task.index, task.first + blockIdx.x);
  T* const out = static_cast<T*>(task.out) + blockIdx.x * task.pitch;
  const int64_t hidden = task.hidden;
  const auto token_offset = [&](int64_t token) {
    return token / task.index.length * task.batch_stride + token % task.index.length * task.token_stride;
  };
  const int64_t left = row.is_live ? token_offset(row.left) : 0;
  const int64_t right = row.is_live ? token_offset(row.right) : 0;
  for (int64_t c = threadIdx.x * int64_t{N}; c < 2 * hidden; c += kGatherThreads * int64_t{N}) {
    const auto values =
        row.is_live ? load_values<A, N>(task.x_type, task.x, c < hidden ? left + c : right + c - hidden)
                    : filled<A, N>(A(0));
    store_values<T, N>(out + c, values);
  }
  for (int64_t c = 2 * hidden + threadIdx.x; c < task.pitch; c += kGatherThreads) {
    out[c] = narrow<T>(row.is_live && c - 2 * hidden == row.slot ? A(1) : A(0));
  }
}

__global__ void __launch_bounds__(kGatherThreads) find_token_rows(FindTokenRows task) {
  const int64_t i = int64_t{blockIdx.x} * kGatherThreads + threadIdx.x;
  if (i >= task.index.capacity) return;
  const BoundaryRow row = boundary_row(task.index, i);
  if (!row.is_live) return;
  const auto enter = [&](TokenRows& rows) {
    atomicMax(&rows.from_end, static_cast<unsigned long long>(task.index.capacity - i));
    atomicMax(&rows.end, static_cast<unsigned long long>(i + 1));
  };
  enter(task.left[row.left]);
  enter(task.right[row.right]);
}

// One warp per token. Between the first and the last row of a token other tokens' rows may lie only where
// spans interleave, which masks never do.
template <typename A, int N>
__global__ void __launch_bounds__(kWarpLanes* kTokensPerBlock, 2) sum_into_tokens(SumIntoTokens task) {
  const int64_t token = int64_t{blockIdx.x} * kTokensPerBlock + threadIdx.y;
  if (token >= task.tokens) return;
  const int64_t capacity = task.index.capacity;
  const TokenRows left = task.left[token], right = task.right[token];
  for (int64_t c = threadIdx.x * int64_t{N}; c < task.columns; c += kWarpLanes * int64_t{N}) {
    auto sum = filled<A, N>(A(0));
    const auto add_rows = [&](const TokenRows& rows, int64_t BoundaryRow::* side, int64_t column) {
      const int64_t first = capacity - static_cast<int64_t>(rows.from_end);
      for (int64_t i = first; i < static_cast<int64_t>(rows.end); ++i) {
        const BoundaryRow row = boundary_row(task.index, i);
        if (!row.is_live || row.*side != token) continue;
        const auto grad =
            load_values<A, N>(static_cast<const A*>(task.grads) + i * 2 * task.columns + column);
#pragma unroll
        for (int j = 0; j < N; ++j) sum.value[j] += grad.value[j];
      }
    };
    add_rows(left, &BoundaryRow::left, c);
    add_rows(right, &BoundaryRow::right, task.columns + c);
    store_values<A, N>(task.x_type, task.grad_x, token * task.hidden + task.first_column + c, sum);
  }
}

unsigned blocks_of(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace

cudaError_t launch_gather_boundaries(const GatherBoundaries& task, cudaStream_t stream) {
  if (task.rows == 0) return cudaSuccess;
  const bool packs = task.hidden % kValues == 0 &&
                     moves_packs<kValues>(task.x_type, task.x, task.batch_stride) &&
                     moves_packs<kValues>(task.x_type, task.x, task.token_stride) &&
                     moves_packs<kValues>(task.type, task.out, task.pitch);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? gather_boundaries<T, kValues> : gather_boundaries<T, 1>,
                  dim3(blocks_of(task.rows, 1)), dim3(kGatherThreads), 0, stream, task);
  });
}

cudaError_t launch_find_token_rows(const FindTokenRows& task, cudaStream_t stream) {
  if (task.index.capacity == 0) return cudaSuccess;
  return launch(find_token_rows, dim3(blocks_of(task.index.capacity, kGatherThreads)), dim3(kGatherThreads),
                0, stream, task);
}

cudaError_t launch_sum_into_tokens(const SumIntoTokens& task, cudaStream_t stream) {
  if (task.tokens == 0 || task.columns == 0) return cudaSuccess;
  const bool packs = task.columns % kSummedValues == 0 && task.first_column % kSummedValues == 0 &&
                     moves_packs<kSummedValues>(task.accumulate_type, task.grads, 2 * task.columns) &&
                     moves_packs<kSummedValues>(task.x_type, task.grad_x, task.hidden);
  const dim3 grid(blocks_of(task.tokens, kTokensPerBlock)), block(kWarpLanes, kTokensPerBlock);
  if (task.accumulate_type == FloatType::kDouble) {
    return launch(packs ? sum_into_tokens<double, kSummedValues> : sum_into_tokens<double, 1>, grid, block, 0,
                  stream, task);
  }
  return launch(packs ? sum_into_tokens<float, kSummedValues> : sum_into_tokens<float, 1>, grid, block, 0,
                stream, task);
}

}  // namespace spanbert_ext
