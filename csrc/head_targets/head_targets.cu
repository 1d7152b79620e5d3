// SPDX-License-Identifier: Apache-2.0
#include "common/row_rank.h"
#include "head_targets/head_targets_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kEntryThreads = static_cast<int>(kHeadEntryThreads);
constexpr int kStatisticsThreads = 128;
constexpr int kMeansThreads = 256;

// Sums that a block makes together.
template <typename V, int kCount>
struct Sums {
  V value[kCount] = {};
};
template <typename V, int kCount>
__device__ __forceinline__ Sums<V, kCount> operator+(Sums<V, kCount> a, const Sums<V, kCount>& b) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) a.value[i] += b.value[i];
  return a;
}
template <typename V, int kCount>
__device__ __forceinline__ Sums<V, kCount> shuffle_xor(Sums<V, kCount> sums, int lane_bits) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums.value[i] = __shfl_xor_sync(kAllLanes, sums.value[i], lane_bits);
  return sums;
}

__global__ void __launch_bounds__(kEntryThreads) count_heads(HeadTargets task) {
  using Counts = Sums<int64_t, 2>;
  __shared__ Counts scratch[kWarpLanes];
  const int64_t entry = int64_t{blockIdx.x} * kEntryThreads + threadIdx.x;
  Counts counts;
  if (entry < task.batch.total) {
    const HeadEntry found = head_entry(task.batch, entry);
    counts = {{found.target >= 0 ? 1 : 0, found.has_sbo ? 1 : 0}};
  }
  counts = reduce_block(counts, Counts{}, Add{}, scratch);
  if (threadIdx.x == 0) task.partial[blockIdx.x] = {counts.value[0], counts.value[1]};
}

template <typename A>
__global__ void __launch_bounds__(kEntryThreads) write_heads(HeadTargets task) {
  using Counts = Sums<int64_t, 3>;  // MLM rows of all blocks, SBO rows of all, MLM rows of blocks before this
  __shared__ Counts scratch[kWarpLanes];
  __shared__ int kept_by_warp[kWarpLanes];
  const int64_t total = task.batch.total, entry = int64_t{blockIdx.x} * kEntryThreads + threadIdx.x;
  Counts counts;
  for (int64_t b = threadIdx.x; b < gridDim.x; b += kEntryThreads) {
    const HeadCounts of_block = task.partial[b];
    counts = counts + Counts{{of_block.mlm, of_block.sbo, b < blockIdx.x ? of_block.mlm : 0}};
  }
  counts = reduce_block(counts, Counts{}, Add{}, scratch);
  const HeadCounts all{counts.value[0], counts.value[1]};
  if (blockIdx.x == 0 && threadIdx.x == 0) *task.counts = all;

  const HeadEntry found = entry < total ? head_entry(task.batch, entry) : HeadEntry{};
  const bool kept = found.target >= 0;
  const int64_t rank = counts.value[2] + rank_in_block(kept, kept_by_warp);
  if (entry >= total) return;

  HeadWeights<A> weights =
      head_weights(all.mlm, all.sbo, static_cast<const A*>(task.num_items),
                   static_cast<const A*>(task.num_sbo_items), static_cast<A>(task.sbo_weight));
  if (all.mlm > task.rows) weights.mlm = weights.sbo = static_cast<A>(NAN);  // the bound was too small
  A* const row_weight = static_cast<A*>(task.row_weight);
  task.ranks[entry] = kept ? rank : -1;
  if (kept && rank < task.rows) {
    task.token_rows[rank] = found.token;
    task.targets[rank] = found.target;
    row_weight[rank] = weights.mlm;
  }
  // Rows behind the last one: entries that hold nothing are as many at least.
  const int64_t dead = all.mlm + entry - rank;
  if (!kept && dead < task.rows) {
    task.token_rows[dead] = task.targets[dead] = -1;
    row_weight[dead] = A(0);
  }
  if (task.batch.left_boundary == nullptr) return;
  task.targets[task.rows + entry] = found.has_sbo ? found.target : -1;
  row_weight[task.rows + entry] = found.has_sbo ? weights.sbo : A(0);
}

template <typename A>
__global__ void __launch_bounds__(kStatisticsThreads) sum_batch_row(HeadStatistics task) {
  using RowSums = Sums<A, kRowSums>;
  __shared__ RowSums scratch[kWarpLanes];
  const A* const nll = static_cast<const A*>(task.nll);
  HeadSums<A> of_mlm, of_sbo;
  for (int64_t k = threadIdx.x; k < task.entries; k += kStatisticsThreads) {
    const int64_t entry = blockIdx.x * task.entries + k, row = task.ranks[entry];
    int64_t mlm = -1, sbo = -1;
    if (row >= 0 && row < task.rows) {
      mlm = task.prediction[row];
      add_row(of_mlm, nll[row], mlm, task.targets[row]);
    }
    if (task.has_sbo) {
      sbo = task.prediction[task.rows + entry];
      add_row(of_sbo, nll[task.rows + entry], sbo, task.targets[task.rows + entry]);
    }
    task.mlm_prediction[entry] = mlm;
    task.sbo_prediction[entry] = sbo;
  }
  const RowSums own{{of_mlm.nll, of_mlm.rows, of_mlm.correct, of_sbo.nll, of_sbo.rows, of_sbo.correct}};
  const RowSums sums = reduce_block(own, RowSums{}, Add{}, scratch);
  if (threadIdx.x != 0) return;
  A* const out = static_cast<A*>(task.row_statistics) + int64_t{blockIdx.x} * kRowSums;
#pragma unroll
  for (int i = 0; i < kRowSums; ++i) out[i] = sums.value[i];
}

template <typename A>
__global__ void __launch_bounds__(kMeansThreads) average_batch(HeadStatistics task) {
  using RowSums = Sums<A, kRowSums>;
  __shared__ RowSums scratch[kWarpLanes];
  RowSums sums;
  for (int64_t b = threadIdx.x; b < task.batch; b += kMeansThreads) {
    const A* const row = static_cast<const A*>(task.row_statistics) + b * kRowSums;
#pragma unroll
    for (int i = 0; i < kRowSums; ++i) sums.value[i] += row[i];
  }
  sums = reduce_block(sums, RowSums{}, Add{}, scratch);
  if (threadIdx.x != 0) return;
  const auto [mlm_nll, mlm_rows, mlm_correct, sbo_nll, sbo_rows, sbo_correct] = sums.value;
  A* const means = static_cast<A*>(task.means);
  means[0] = mean_of(mlm_nll, mlm_rows);
  means[1] = mean_of(sbo_nll, sbo_rows);
  means[2] = mean_of(mlm_correct, mlm_rows);
  means[3] = mean_of(sbo_correct, sbo_rows);
}

}  // namespace

cudaError_t launch_head_targets(const HeadTargets& task, cudaStream_t stream) {
  const dim3 grid = grid_of(head_entry_blocks(task.batch.total)), block(kEntryThreads);
  const cudaError_t error = launch(&count_heads, grid, block, 0, stream, task);
  if (error != cudaSuccess) return error;
  return launch(task.accumulate == FloatType::kDouble ? &write_heads<double> : &write_heads<float>, grid,
                block, 0, stream, task);
}

cudaError_t launch_head_statistics(const HeadStatistics& task, cudaStream_t stream) {
  const bool wide = task.accumulate == FloatType::kDouble;
  if (task.batch > 0) {
    const cudaError_t error = launch(wide ? &sum_batch_row<double> : &sum_batch_row<float>,
                                     grid_of(task.batch), dim3(kStatisticsThreads), 0, stream, task);
    if (error != cudaSuccess) return error;
  }
  return launch(wide ? &average_batch<double> : &average_batch<float>, dim3(1), dim3(kMeansThreads), 0,
                stream, task);
}

}  // namespace spanbert_ext
