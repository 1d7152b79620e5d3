// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "common/integers.h"

namespace spanbert_ext {

constexpr int64_t kRowMultiple = 128;  // rows of a GEMM's tile

// Rows that the gradient of h is kept in: a bound of those that take part, rounded up.
// spanbert_ext/ops/vocab_ce.py repeats it for tensors without data.
inline int64_t compact_capacity(int64_t rows, std::optional<int64_t> max_rows) {
  return round_up(std::min(rows, max_rows.value_or(rows)), kRowMultiple);
}

}  // namespace spanbert_ext
