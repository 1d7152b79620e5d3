#include <algorithm>

#include "common/compact_rows.h"
#include "common/cuda_launch.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kMaxThreads = 1024;

__device__ __forceinline__ bool is_kept(const CompactRows& task, int64_t row) {
  return task.values[row] >= 0 || (task.others != nullptr && task.others[row] >= 0);
}

// A block places blockDim.x rows. It counts the rows kept before its own by reading all of them: a few
// hundred kB from the L2 cache at the sizes of a batch, where a second launch or a wait for other blocks
// would cost more.
__global__ void __launch_bounds__(kMaxThreads) compact_rows(CompactRows task) {
  __shared__ int64_t scratch[kWarpLanes];
  __shared__ int kept_by_warp[kWarpLanes];
  const int64_t first = int64_t{blockIdx.x} * blockDim.x, row = first + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  int64_t before = 0;
  for (int64_t r = threadIdx.x; r < first; r += blockDim.x) before += is_kept(task, r);
  before = reduce_block(before, int64_t{0}, Add{}, scratch);

  const bool keep = row < task.rows && is_kept(task, row);
  const unsigned kept_lanes = __ballot_sync(kAllLanes, keep);
  if (lane == 0) kept_by_warp[warp] = __popc(kept_lanes);
  __syncthreads();
  for (int w = 0; w < warp; ++w) before += kept_by_warp[w];
  before += __popc(kept_lanes & ((1u << lane) - 1));
  if (keep) task.kept[before] = row;
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == blockDim.x - 1) *task.count = before + keep;
}

}  // namespace

cudaError_t launch_compact_rows(const CompactRows& task, cudaStream_t stream) {
  const int64_t warps = (std::max<int64_t>(task.rows, 1) + kWarpLanes - 1) / kWarpLanes;
  const int64_t threads = std::min(kMaxThreads, warps * kWarpLanes);
  const int64_t blocks = (std::max<int64_t>(task.rows, 1) + threads - 1) / threads;
  return launch(compact_rows, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), 0,
                stream, task);
}

}  // namespace spanbert_ext
