// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels of head_targets see. Torch-free.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/float_type.h"
#include "common/integers.h"
#include "head_targets/head_rules.h"

namespace spanbert_ext {

constexpr int64_t kHeadEntryThreads = 512;
SPANBERT_EXT_HOST_DEVICE int64_t head_entry_blocks(int64_t total) {
  return total == 0 ? 1 : divide_up(total, kHeadEntryThreads);
}

struct HeadCounts {
  int64_t mlm, sbo;
};

// Two launches: what every block of entries holds, then the rows and their weights.
struct HeadTargets {
  HeadBatch batch;
  int64_t rows;               // R
  FloatType accumulate;       // of everything marked acc
  const void* num_items;      // acc [1] or null
  const void* num_sbo_items;  // acc [1] or null
  double sbo_weight;
  HeadCounts* partial;  // [head_entry_blocks(B * K)]
  int64_t* token_rows;  // [R]
  int64_t* ranks;       // [B * K]
  int64_t* targets;     // [R + B * K], or [R] without SBO
  void* row_weight;     // acc, as targets
  HeadCounts* counts;   // [1]
};
cudaError_t launch_head_targets(const HeadTargets& task, cudaStream_t stream);

// Two launches: a block per batch row, then the means over the batch.
struct HeadStatistics {
  int64_t batch, entries, rows;  // B, K, R
  bool has_sbo;
  FloatType accumulate;
  const void* nll;                           // acc, as targets
  const int64_t *prediction, *targets;       // [R + B * K], or [R] without SBO
  const int64_t* ranks;                      // [B, K]
  void* row_statistics;                      // acc [B, kRowSums]
  void* means;                               // acc [kMeans]
  int64_t *mlm_prediction, *sbo_prediction;  // [B, K]
};
cudaError_t launch_head_statistics(const HeadStatistics& task, cudaStream_t stream);

}  // namespace spanbert_ext
