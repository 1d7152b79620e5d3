// SPDX-License-Identifier: Apache-2.0
// The instruction sets that CPU kernels are compiled for on x86-64 beside the default, each with the one before it. The
// build reads these lines too: a feature that a CPU must have is compiled for with -m before its name.
#pragma once

#define SPANBERT_EXT_AVX2(X) X("avx2") X("fma") X("f16c") X("bmi") X("bmi2") X("popcnt")
#define SPANBERT_EXT_AVX512(X) X("avx512f") X("avx512dq") X("avx512vl") X("avx512bw")
