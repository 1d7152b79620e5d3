// SPDX-License-Identifier: Apache-2.0
// The rows that take part, in order, found on the device: how many there are is not read on the host.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace spanbert_ext {

// Row r is kept where values[r] >= 0 or, with `others`, others[r] >= 0.
struct CompactRows {
  const int64_t* values;  // [rows]
  const int64_t* others;  // [rows] or null
  int64_t rows;
  int64_t* kept;   // [rows]: the kept rows, ascending; entries from *count on are not written
  int64_t* count;  // [1]: how many are kept
};

cudaError_t launch_compact_rows(const CompactRows& task, cudaStream_t stream);

}  // namespace spanbert_ext
