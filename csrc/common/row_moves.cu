#include "common/cuda_launch.h"
#include "common/row_moves.h"

namespace spanbert_ext {
namespace {

constexpr int kMoveThreads = 128;

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

cudaError_t launch_gather_rows(const MoveRows& move, cudaStream_t stream) {
  return move_rows<true>(move, stream);
}

cudaError_t launch_scatter_rows(const MoveRows& move, cudaStream_t stream) {
  return move_rows<false>(move, stream);
}

}  // namespace spanbert_ext
