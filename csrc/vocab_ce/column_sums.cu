// SPDX-License-Identifier: Apache-2.0
// Sums of columns: the gradient of the biases.
#include "common/cuda_launch.h"
#include "common/row_values.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kColumnThreads = 128;
constexpr int kRowsAtOnce = 8;  // loads under way per thread

// A block sums kColumnThreads packs of columns over one slice of rows. The rows that are not
// live come last and are in no group.
template <typename T>
__global__ void __launch_bounds__(kColumnThreads) sum_columns(LogitsChunk chunk, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  constexpr int kValues = kPackValues<T>;
  const int64_t column = (blockIdx.x * int64_t{kColumnThreads} + threadIdx.x) * kValues;
  if (column >= chunk.pitch) return;
  const int64_t slice_begin = blockIdx.y * kSliceRows;
  const int64_t slice_end = min(slice_begin + kSliceRows, chunk.rows);
  const T* const logits = static_cast<const T*>(chunk.logits) + column;
  for (int group = 0; group < chunk.groups; ++group) {
    const int64_t begin = max(slice_begin, chunk.live.starts[group] - chunk.first);
    const int64_t end = min(slice_end, chunk.live.starts[group + 1] - chunk.first);
    A sum[kValues] = {};
#pragma unroll kRowsAtOnce
    for (int64_t row = begin; row < end; ++row) {
      const auto values = *reinterpret_cast<const Pack<T, kValues>*>(logits + row * chunk.pitch);
#pragma unroll
      for (int j = 0; j < kValues; ++j) sum[j] += widen(values.value[j]);
    }
    A* const out = partial + (static_cast<int64_t>(blockIdx.y) * chunk.groups + group) * chunk.pitch + column;
    constexpr int kSums = kPackValues<A>;
#pragma unroll
    for (int first = 0; first < kValues; first += kSums) {
      Pack<A, kSums> sums;
#pragma unroll
      for (int j = 0; j < kSums; ++j) sums.value[j] = sum[first + j];
      store_globally<A, kSums>(out + first, sums);
    }
  }
}

// db [groups, vocab]: a thread per value, slices in order.
template <typename A>
__global__ void __launch_bounds__(kColumnThreads)
    add_slices(LogitsChunk chunk, const A* partial, A* db, bool accumulate) {
  const int64_t column = blockIdx.x * int64_t{kColumnThreads} + threadIdx.x;
  if (column >= chunk.vocab) return;
  const int64_t group = blockIdx.y, slices = column_slices(chunk.rows);
  A& out = db[group * chunk.vocab + column];
  A sum = accumulate ? out : A(0);
#pragma unroll 8
  for (int64_t s = 0; s < slices; ++s) sum += partial[(s * chunk.groups + group) * chunk.pitch + column];
  out = sum;
}

}  // namespace

cudaError_t launch_column_sums(const LogitsChunk& chunk, void* partial, void* db, bool accumulate,
                               cudaStream_t stream) {
  if (chunk.rows == 0) return cudaSuccess;
  return dispatch_float(chunk.type, [&]<typename T>() {
    using A = Accumulate<T>;
    A* const sums = static_cast<A*>(partial);
    const dim3 grid =
        grid_of(divide_up(chunk.pitch, kColumnThreads * int64_t{kPackValues<T>}), column_slices(chunk.rows));
    const cudaError_t error = launch(&sum_columns<T>, grid, dim3(kColumnThreads), 0, stream, chunk, sums);
    if (error != cudaSuccess) return error;
    return launch(&add_slices<A>, grid_of(divide_up(chunk.vocab, kColumnThreads), chunk.groups),
                  dim3(kColumnThreads), 0, stream, chunk, static_cast<const A*>(sums), static_cast<A*>(db),
                  accumulate);
  });
}

}  // namespace spanbert_ext
