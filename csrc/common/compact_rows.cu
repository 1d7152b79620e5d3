// SPDX-License-Identifier: Apache-2.0
#include "common/compact_rows.h"
#include "common/row_rank.h"

namespace spanbert_ext {
namespace {

__global__ void __launch_bounds__(kMaxRankThreads) compact_rows(CompactRows task) {
  const RankedRow ranked = rank_row(task.rows, [&](int64_t row) {
    return task.values[row] >= 0 || (task.others != nullptr && task.others[row] >= 0);
  });
  if (ranked.kept) task.kept[ranked.before] = ranked.row;
  if (ranked.is_last()) *task.count = ranked.before + ranked.kept;
}

}  // namespace

cudaError_t launch_compact_rows(const CompactRows& task, cudaStream_t stream) {
  const RankGrid size = rank_grid(task.rows);
  return launch(compact_rows, size.grid, size.block, 0, stream, task);
}

}  // namespace spanbert_ext
