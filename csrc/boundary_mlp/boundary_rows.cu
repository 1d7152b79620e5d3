// SPDX-License-Identifier: Apache-2.0
// The rows of boundary_mlp: gathered into the operand of a GEMM, and their gradients summed into the tokens.
#include <algorithm>

#include "boundary_mlp/boundary_mlp_cuda.h"
#include "common/integers.h"
#include "common/row_values.h"

namespace spanbert_ext {
namespace {

constexpr int kValues = 8;  // moved at a time: 16 bytes of the 16-bit types
constexpr int kSummedValues = 4;
constexpr int kGatherThreads = 128;
constexpr int kTokensPerBlock = 8;  // one warp each

// One block per row.
template <typename T, int N>
__global__ void __launch_bounds__(kGatherThreads, 4) gather_boundaries(GatherBoundaries task) {
  using A = Accumulate<T>;
  const BoundaryRow row = boundary_row(task.index, task.first + blockIdx.x);
  T* const out = static_cast<T*>(task.out) + blockIdx.x * task.pitch;
  const int64_t hidden = task.tokens.hidden;
  const int64_t left = row.is_live ? token_offset(task.tokens, row.left) : 0;
  const int64_t right = row.is_live ? token_offset(task.tokens, row.right) : 0;
  for (int64_t c = threadIdx.x * int64_t{N}; c < 2 * hidden; c += kGatherThreads * int64_t{N}) {
    const auto values = row.is_live ? load_values<A, N>(task.tokens.type, task.tokens.x,
                                                        c < hidden ? left + c : right + c - hidden)
                                    : filled<A, N>(A(0));
    store_values<T, N>(out + c, values);
  }
  for (int64_t c = threadIdx.x; c < task.pitch - 2 * hidden; c += kGatherThreads) {
    A value = 0;
    if (row.is_live && c < task.position_columns) {
      value = load_values<A, 1>(task.positions_type, task.positions, row.slot * task.position_columns + c)
                  .value[0];
    }
    out[2 * hidden + c] = narrow<T>(value);
  }
}

// One block per row.
template <typename T, int N>
__global__ void __launch_bounds__(kGatherThreads, 4) gather_tokens(GatherTokens task) {
  const int64_t i = blockIdx.x, token = task.index.token[i], hidden = task.tokens.hidden;
  const bool exists = token >= 0 && token < task.index.tokens;
  const T* const from =
      static_cast<const T*>(task.tokens.x) + (exists ? token_offset(task.tokens, token) : 0);
  T* const out = static_cast<T*>(task.out) + i * hidden;
  const auto fill = filled<Accumulate<T>, N>(token == -1 ? Accumulate<T>(0) : Accumulate<T>(NAN));
  for (int64_t c = threadIdx.x * int64_t{N}; c < hidden; c += kGatherThreads * int64_t{N}) {
    if (exists) {
      *reinterpret_cast<Pack<T, N>*>(out + c) = *reinterpret_cast<const Pack<T, N>*>(from + c);
    } else {
      store_values<T, N>(out + c, fill);
    }
  }
}

__global__ void __launch_bounds__(kGatherThreads) find_token_rows(FindTokenRows task) {
  const int64_t i = int64_t{blockIdx.x} * kGatherThreads + threadIdx.x;
  const auto enter = [&](RowRange& range, int64_t rows) {
    atomicMax(&range.from_end, static_cast<unsigned long long>(rows - i));
    atomicMax(&range.end, static_cast<unsigned long long>(i + 1));
  };
  if (i < task.boundaries.capacity) {
    const BoundaryRow row = boundary_row(task.boundaries, i);
    if (row.is_live) {
      enter(task.ranges.left[row.left], task.boundaries.capacity);
      enter(task.ranges.right[row.right], task.boundaries.capacity);
    }
  }
  if (i < task.handed_out.rows) {
    const int64_t token = task.handed_out.token[i];
    if (token >= 0 && token < task.handed_out.tokens) enter(task.ranges.own[token], task.handed_out.rows);
  }
}

// One warp per token. Between the first and the last row of a token other tokens' rows may lie only where
// spans interleave, which masks never do, or where a token is handed out twice.
template <typename A, int N>
__global__ void __launch_bounds__(kWarpLanes* kTokensPerBlock, 2) sum_into_tokens(SumIntoTokens task) {
  const int64_t token = int64_t{blockIdx.x} * kTokensPerBlock + threadIdx.y;
  if (token >= task.handed_out.tokens) return;
  const RowRange left = task.ranges.left[token], right = task.ranges.right[token],
                 own = task.ranges.own[token];
  for (int64_t c = threadIdx.x * int64_t{N}; c < task.columns; c += kWarpLanes * int64_t{N}) {
    auto sum = filled<A, N>(A(0));
    const auto add = [&](const Pack<A, N>& grad) {
#pragma unroll
      for (int j = 0; j < N; ++j) sum.value[j] += grad.value[j];
    };
    const auto for_each_row = [](const RowRange& range, int64_t rows, const auto& body) {
      const int64_t first = rows - static_cast<int64_t>(range.from_end);
      for (int64_t i = first; i < static_cast<int64_t>(range.end); ++i) body(i);
    };
    const auto add_boundaries = [&](const RowRange& range, int64_t BoundaryRow::* side, int64_t column) {
      for_each_row(range, task.boundaries.capacity, [&](int64_t i) {
        const BoundaryRow row = boundary_row(task.boundaries, i);
        if (!row.is_live || row.*side != token) return;
        add(load_values<A, N>(static_cast<const A*>(task.grads) + i * 2 * task.columns + column));
      });
    };
    add_boundaries(left, &BoundaryRow::left, c);
    add_boundaries(right, &BoundaryRow::right, task.columns + c);
    for_each_row(own, task.handed_out.rows, [&](int64_t i) {
      if (task.handed_out.token[i] != token) return;
      add(load_values<A, N>(task.x_type, task.grad_rows, i * task.hidden + task.first_column + c));
    });
    store_globally<A, N>(task.x_type, task.grad_x, token * task.hidden + task.first_column + c, sum);
  }
}

// Whether N values at a time can be read of every token.
template <int N>
bool moves_tokens(const Tokens& tokens) {
  return tokens.hidden % N == 0 && moves_packs<N>(tokens.type, tokens.x, tokens.batch_stride) &&
         moves_packs<N>(tokens.type, tokens.x, tokens.token_stride);
}

}  // namespace

cudaError_t launch_gather_boundaries(const GatherBoundaries& task, cudaStream_t stream) {
  if (task.rows == 0 || task.pitch == 0) return cudaSuccess;
  const bool packs =
      moves_tokens<kValues>(task.tokens) && moves_packs<kValues>(task.type, task.out, task.pitch);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? gather_boundaries<T, kValues> : gather_boundaries<T, 1>, grid_of(task.rows),
                  dim3(kGatherThreads), 0, stream, task);
  });
}

cudaError_t launch_gather_tokens(const GatherTokens& task, cudaStream_t stream) {
  if (task.index.rows == 0 || task.tokens.hidden == 0) return cudaSuccess;
  const bool packs = moves_tokens<kValues>(task.tokens) &&
                     moves_packs<kValues>(task.tokens.type, task.out, task.tokens.hidden);
  return dispatch_float(task.tokens.type, [&]<typename T>() {
    return launch(packs ? gather_tokens<T, kValues> : gather_tokens<T, 1>, grid_of(task.index.rows),
                  dim3(kGatherThreads), 0, stream, task);
  });
}

cudaError_t launch_find_token_rows(const FindTokenRows& task, cudaStream_t stream) {
  const int64_t rows = std::max(task.boundaries.capacity, task.handed_out.rows);
  if (rows == 0) return cudaSuccess;
  return launch(find_token_rows, grid_of(divide_up(rows, kGatherThreads)), dim3(kGatherThreads), 0, stream,
                task);
}

cudaError_t launch_sum_into_tokens(const SumIntoTokens& task, cudaStream_t stream) {
  const int64_t tokens = task.handed_out.tokens;
  if (tokens == 0 || task.columns == 0) return cudaSuccess;
  const bool packs = task.columns % kSummedValues == 0 && task.first_column % kSummedValues == 0 &&
                     moves_packs<kSummedValues>(task.accumulate_type, task.grads, 2 * task.columns) &&
                     moves_packs<kSummedValues>(task.x_type, task.grad_rows, task.hidden) &&
                     moves_packs<kSummedValues>(task.x_type, task.grad_x, task.hidden);
  const dim3 grid = grid_of(divide_up(tokens, kTokensPerBlock)), block(kWarpLanes, kTokensPerBlock);
  const bool is_double = task.accumulate_type == FloatType::kDouble;
  const auto single = is_double ? sum_into_tokens<double, 1> : sum_into_tokens<float, 1>;
  const auto packed =
      is_double ? sum_into_tokens<double, kSummedValues> : sum_into_tokens<float, kSummedValues>;
  return launch(packs ? packed : single, grid, block, 0, stream, task);
}

}  // namespace spanbert_ext
