#include "common/cuda_launch.h"
#include "common/row_moves.h"

namespace spanbert_ext {
namespace {

constexpr int kScanThreads = 1024, kMoveThreads = 128;

// One block walks over all ids: the order needs no second launch, and 1,024 ids are one step.
__global__ void __launch_bounds__(kScanThreads) compact_rows_kernel(CompactRows compact) {
  __shared__ int64_t warp_counts[kWarpLanes];
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  int64_t listed = 0;
  for (int64_t first = 0; first < compact.n; first += kScanThreads) {
    const int64_t row = first + threadIdx.x;
    const bool takes_part = row < compact.n && compact.ids[row] >= 0;
    const unsigned lanes = __ballot_sync(kAllLanes, takes_part);
    if (lane == 0) warp_counts[warp] = __popc(lanes);
    __syncthreads();
    int64_t before = 0, all = 0;
    for (int other = 0; other < kScanThreads / kWarpLanes; ++other) {
      before += other < warp ? warp_counts[other] : 0;
      all += warp_counts[other];
    }
    __syncthreads();
    const int64_t place = listed + before + __popc(lanes & ((1u << lane) - 1));
    if (takes_part && place < compact.capacity) compact.rows[place] = row;
    listed += all;
  }
  for (int64_t i = listed + threadIdx.x; i < compact.capacity; i += kScanThreads) compact.rows[i] = -1;
  if (threadIdx.x == 0) *compact.count = listed;
}

// Unit: what one access moves.
template <typename Unit, bool kGather>
__global__ void __launch_bounds__(kMoveThreads) move_rows_kernel(MoveRows move) {
  const int64_t i = blockIdx.x, row = move.rows[i];
  if (!kGather && row < 0) return;
  const int64_t from_row = kGather ? row : i, to_row = kGather ? i : row;
  const Unit* from =
      reinterpret_cast<const Unit*>(static_cast<const char*>(move.from) + from_row * move.from_stride);
  Unit* to = reinterpret_cast<Unit*>(static_cast<char*>(move.to) + to_row * move.to_stride);
  const int64_t units = move.row_bytes / static_cast<int64_t>(sizeof(Unit));
  for (int64_t u = threadIdx.x; u < units; u += kMoveThreads) to[u] = row < 0 ? Unit{} : from[u];
}

template <bool kGather>
cudaError_t move_rows(const MoveRows& move, cudaStream_t stream) {
  if (move.n == 0 || move.row_bytes == 0) return cudaSuccess;
  const auto start = [&]<typename Unit>() {
    return launch(&move_rows_kernel<Unit, kGather>, dim3(static_cast<unsigned>(move.n)), dim3(kMoveThreads),
                  0, stream, move);
  };
  const auto bits = reinterpret_cast<uintptr_t>(move.from) | reinterpret_cast<uintptr_t>(move.to) |
                    static_cast<uintptr_t>(move.from_stride | move.to_stride | move.row_bytes);
  if (bits % kPackBytes == 0) return start.template operator()<uint4>();
  switch (move.element_bytes) {
    case 2:
      return start.template operator()<uint16_t>();
    case 4:
      return start.template operator()<uint32_t>();
    default:
      return start.template operator()<uint64_t>();
  }
}

}  // namespace

cudaError_t launch_compact_rows(const CompactRows& compact, cudaStream_t stream) {
  return launch(&compact_rows_kernel, dim3(1), dim3(kScanThreads), 0, stream, compact);
}

cudaError_t launch_gather_rows(const MoveRows& move, cudaStream_t stream) {
  return move_rows<true>(move, stream);
}

cudaError_t launch_scatter_rows(const MoveRows& move, cudaStream_t stream) {
  return move_rows<false>(move, stream);
}

}  // namespace spanbert_ext
