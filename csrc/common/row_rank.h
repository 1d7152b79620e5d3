// SPDX-License-Identifier: Apache-2.0
// How many kept rows come before a row, for kernels that move them to the front.
#pragma once

#include "common/cuda_launch.h"
#include "common/integers.h"

namespace spanbert_ext {

constexpr int64_t kMaxRankThreads = 1024;

struct RankedRow {
  int64_t row;     // the row of this thread; may be past the last one
  bool kept;       // false past the last row
  int64_t before;  // kept rows before it
  // Whether `before + kept` of this thread is how many rows are kept in all.
  __device__ __forceinline__ bool is_last() const {
    return blockIdx.x == gridDim.x - 1 && threadIdx.x == blockDim.x - 1;
  }
};

// How many threads of this block before this one are kept. `kept_by_warp` is shared memory for 32 numbers.
__device__ __forceinline__ int rank_in_block(bool kept, int* kept_by_warp) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const unsigned kept_lanes = __ballot_sync(kAllLanes, kept);
  if (lane == 0) kept_by_warp[warp] = __popc(kept_lanes);
  __syncthreads();
  int rank = __popc(kept_lanes & ((1u << lane) - 1));
  for (int w = 0; w < warp; ++w) rank += kept_by_warp[w];
  return rank;
}

// A thread per row. A block counts the rows kept before its own by reading all of them: a few hundred kB from
// the L2 cache at the sizes of a batch, where a second launch or a wait for other blocks would cost more.
template <typename IsKept>
__device__ __forceinline__ RankedRow rank_row(int64_t rows, const IsKept& is_kept) {
  __shared__ int64_t scratch[kWarpLanes];
  __shared__ int kept_by_warp[kWarpLanes];
  const int64_t first = int64_t{blockIdx.x} * blockDim.x, row = first + threadIdx.x;
  int64_t before = 0;
  for (int64_t r = threadIdx.x; r < first; r += blockDim.x) before += is_kept(r);
  before = reduce_block(before, int64_t{0}, Add{}, scratch);

  const bool kept = row < rows && is_kept(row);
  return {row, kept, before + rank_in_block(kept, kept_by_warp)};
}

// Blocks and threads for a kernel that ranks `rows` rows; one block also for none.
struct RankGrid {
  dim3 grid, block;
};
inline RankGrid rank_grid(int64_t rows) {
  int64_t threads = round_up(rows, kWarpLanes);
  if (threads == 0) threads = kWarpLanes;
  if (threads > kMaxRankThreads) threads = kMaxRankThreads;
  const int64_t blocks = rows == 0 ? 1 : divide_up(rows, threads);
  return {grid_of(blocks), dim3(static_cast<unsigned>(threads))};
}

}  // namespace spanbert_ext
