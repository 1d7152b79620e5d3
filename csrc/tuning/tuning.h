// SPDX-License-Identifier: Apache-2.0
// Kernels in variants that the library does not use, for benchmarks/tune_cuda.py. Torch-free.
#pragma once

#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {

// What launch_cross_entropy_variant takes, in order.
constexpr const char* kCrossEntropyVariants[] = {"512x1", "512x2",  "512x4", "256x2",
                                                 "256x4", "1024x1", "1024x2"};

// Cross-entropy of bfloat16 logits with the threads of a block and the unrolling that the variant's name
// says.
cudaError_t launch_cross_entropy_variant(const CrossEntropy& problem, int variant, cudaStream_t stream);

}  // namespace spanbert_ext
