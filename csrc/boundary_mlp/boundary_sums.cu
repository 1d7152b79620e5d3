// SPDX-License-Identifier: Apache-2.0
// Sums over the compact rows of boundary_mlp, in a fixed order: the bits do not vary.
#include <algorithm>

#include "boundary_mlp/boundary_mlp_cuda.h"
#include "common/integers.h"
#include "common/row_values.h"

namespace spanbert_ext {
namespace {

constexpr int kSlotWarps = 16;    // of a block of sum_by_slot: each takes every 16th run of 32 rows
constexpr int kSlotValues = 4;    // columns of a lane
constexpr int kPartialRows = 16;  // threads that share a column of sum_partials

// A block sums one slot's rows of one group, in a tile of 32 * N columns: a warp finds them 32 at a time.
template <typename T, int N>
__global__ void __launch_bounds__(kWarpLanes* kSlotWarps, 2) sum_by_slot(SumBySlot task, int64_t tiles) {
  using A = Accumulate<T>;
  __shared__ Pack<A, N> of_warp[kSlotWarps][kWarpLanes];
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int64_t slot = blockIdx.x / tiles, c = (blockIdx.x % tiles * kWarpLanes + lane) * N;
  const int64_t begin = blockIdx.y * kSlotRows, end = min(begin + kSlotRows, task.index.capacity);
  auto sum = filled<A, N>(A(0));
  for (int64_t first = begin + warp * kWarpLanes; first < end; first += kSlotWarps * kWarpLanes) {
    bool is_here = false;
    if (first + lane < end) {
      const BoundaryRow row = boundary_row(task.index, first + lane);
      is_here = row.is_live && row.slot == slot;
    }
    for (unsigned lanes = __ballot_sync(kAllLanes, is_here); lanes != 0; lanes &= lanes - 1) {
      if (c >= task.columns) continue;
      const int64_t row = first + __ffs(static_cast<int>(lanes)) - 1;
      const auto values = load_values<T, N>(static_cast<const T*>(task.rows) + row * task.columns + c);
#pragma unroll
      for (int j = 0; j < N; ++j) sum.value[j] += values.value[j];
    }
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || c >= task.columns) return;
  for (int w = 1; w < kSlotWarps; ++w) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum.value[j] += of_warp[w][lane].value[j];
  }
  store_globally<A, N>(static_cast<A*>(task.sums) + (blockIdx.y * task.index.slots + slot) * task.columns + c,
                       sum);
}

template <typename A>
__global__ void __launch_bounds__(kWarpLanes* kPartialRows, 2)
    sum_partials(const __grid_constant__ SumPartials task) {
  __shared__ A of_row[kPartialRows][kWarpLanes];
  const PartialSum& job = task.sums[blockIdx.y];
  const int64_t c = int64_t{blockIdx.x} * kWarpLanes + threadIdx.x;
  if (int64_t{blockIdx.x} * kWarpLanes >= job.columns) return;
  A sum = 0;
  if (c < job.columns) {
    for (int64_t i = threadIdx.y; i < job.count; i += kPartialRows) {
      sum += static_cast<const A*>(job.partials)[i * job.stride + c];
    }
  }
  of_row[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= job.columns) return;
  for (int y = 1; y < kPartialRows; ++y) sum += of_row[y][threadIdx.x];
  Pack<A, 1> result;
  result.value[0] = sum;
  store_values<A, 1>(job.out_type, job.out, c, result);
}

}  // namespace

cudaError_t launch_sum_by_slot(const SumBySlot& task, cudaStream_t stream) {
  const int64_t groups = divide_up(task.index.capacity, kSlotRows);
  if (groups == 0 || task.index.slots == 0 || task.columns == 0) return cudaSuccess;
  const bool packs = moves_packs<kSlotValues>(task.type, task.rows, task.columns);
  const int64_t tile = kWarpLanes * (packs ? kSlotValues : 1), tiles = divide_up(task.columns, tile);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? sum_by_slot<T, kSlotValues> : sum_by_slot<T, 1>,
                  grid_of(tiles * task.index.slots, groups), dim3(kWarpLanes, kSlotWarps), 0, stream, task,
                  tiles);
  });
}

cudaError_t launch_sum_partials(const SumPartials& task, cudaStream_t stream) {
  int64_t columns = 0;
  for (int i = 0; i < task.count; ++i) columns = std::max(columns, task.sums[i].columns);
  if (columns == 0) return cudaSuccess;
  const dim3 grid = grid_of(divide_up(columns, kWarpLanes), task.count);
  return launch(task.accumulate_type == FloatType::kDouble ? sum_partials<double> : sum_partials<float>, grid,
                dim3(kWarpLanes, kPartialRows), 0, stream, task);
}

}  // namespace spanbert_ext
