#pragma once

#include <algorithm>
#include <cstdint>

namespace spanbert_ext {

// Rows of one chunk: at most `most`, and all chunks of about the same size, so that the last GEMM is no
// sliver.
inline int64_t chunk_rows(int64_t rows, int64_t most) {
  const int64_t chunks = std::max<int64_t>(1, (rows + most - 1) / most);
  return (rows + chunks - 1) / chunks;
}

}  // namespace spanbert_ext
