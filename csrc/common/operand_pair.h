// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

namespace spanbert_ext {

// Rows of a bfloat16 right operand lie in pairs: element (i, j) of a panel at [i / 2][j][i % 2], so k is even.
template <typename T>
constexpr int64_t kPair = std::is_same_v<T, c10::BFloat16> ? 2 : 1;

}  // namespace spanbert_ext
