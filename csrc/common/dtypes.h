// SPDX-License-Identifier: Apache-2.0
// The floating-point dtypes of the operators, and what they compute in.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace spanbert_ext {

inline bool is_supported_float(c10::ScalarType type) {
  return type == c10::kDouble || type == c10::kFloat || type == c10::kBFloat16 || type == c10::kHalf;
}

// Sums, losses and row weights: float64 for float64, float32 for everything else.
inline c10::ScalarType accumulation_dtype(c10::ScalarType compute) {
  return compute == c10::kDouble ? c10::kDouble : c10::kFloat;
}

// Of a parameter's gradient that is made before the gradient of the loss is known: before the division by the number of
// rows a sum may lie beyond float16.
inline c10::ScalarType kept_gradient_dtype(c10::ScalarType parameter) {
  return parameter == c10::kHalf ? c10::kFloat : parameter;
}

inline void check_float(const char* op, const char* name, c10::ScalarType type) {
  TORCH_CHECK_TYPE(is_supported_float(type), op, ": ", name, " has dtype ", type,
                   ", expected float64, float32, bfloat16 or float16");
}

inline void check_compute_dtype(const char* op, const char* input, c10::ScalarType type,
                                c10::ScalarType compute) {
  check_float(op, input, type);
  check_float(op, "compute_dtype", compute);
  TORCH_CHECK_TYPE((compute == c10::kDouble) == (type == c10::kDouble), op, ": ", input, " has dtype ", type,
                   " with compute_dtype ", compute, ", expected both or neither to be float64");
}

}  // namespace spanbert_ext
