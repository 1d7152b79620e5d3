// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace spanbert_ext {

// The dtypes of the operators, for kernels, which include nothing of torch.
enum class FloatType { kDouble, kFloat, kBFloat16, kHalf };

}  // namespace spanbert_ext
