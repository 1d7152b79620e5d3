// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/integers.h"

namespace spanbert_ext {

// Rows of one chunk: at most `most`, and all chunks of about the same size, so that the last GEMM is no
// sliver.
inline int64_t chunk_rows(int64_t rows, int64_t most) {
  return divide_up(rows, std::max<int64_t>(1, divide_up(rows, most)));
}

}  // namespace spanbert_ext
