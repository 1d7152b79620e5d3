// Rows that take part, moved to the front of a matrix and back, without the host knowing how many they are.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace spanbert_ext {

// Lists the rows whose id is not negative, in order. Row i of the list is -1 from `count` on; what does not
// fit into `capacity` is counted but not listed.
struct CompactRows {
  const int64_t* ids;  // [n]
  int64_t n;
  int64_t capacity;
  int64_t* rows;   // [capacity]
  int64_t* count;  // [1]
};
cudaError_t launch_compact_rows(const CompactRows& compact, cudaStream_t stream);

// Moves rows of bytes, whatever they hold: gather reads row rows[i] and writes row i (zeros where rows[i] is
// -1), scatter reads row i and writes row rows[i] (nothing where it is -1). `element_bytes` divides
// addresses, strides and row_bytes.
struct MoveRows {
  const void* from;
  void* to;
  int64_t from_stride, to_stride, row_bytes;  // bytes
  int element_bytes;                          // 2, 4 or 8
  const int64_t* rows;                        // [n]
  int64_t n;
};
cudaError_t launch_gather_rows(const MoveRows& move, cudaStream_t stream);
cudaError_t launch_scatter_rows(const MoveRows& move, cudaStream_t stream);

}  // namespace spanbert_ext
