// SPDX-License-Identifier: Apache-2.0
// Which of the compiled instruction sets the CPU kernels use in this process.
#pragma once

namespace spanbert_ext {

enum class Capability { kDefault, kAvx2, kAvx512 };

// The best set that this CPU has, lowered (never raised) by SPANBERT_EXT_CPU_CAPABILITY =
// default|avx2|avx512.
Capability cpu_capability();
const char* capability_name(Capability capability);

// Whether this CPU takes hundreds of cycles for the instruction that selects a bit (pdep): AMD's and Hygon's before the
// third generation of Zen.
bool has_slow_bit_select();

// The function (or function template's instance) of the namespace compiled for this CPU:
// SPANBERT_EXT_CPU_DISPATCH(column_statistics<float, float>)(arguments...).
#if defined(__x86_64__)
#define SPANBERT_EXT_CPU_DISPATCH(...)                                                           \
  (::spanbert_ext::cpu_capability() == ::spanbert_ext::Capability::kAvx512 ? AVX512::__VA_ARGS__ \
   : ::spanbert_ext::cpu_capability() == ::spanbert_ext::Capability::kAvx2 ? AVX2::__VA_ARGS__   \
                                                                           : DEFAULT::__VA_ARGS__)
#else
#define SPANBERT_EXT_CPU_DISPATCH(...) (DEFAULT::__VA_ARGS__)
#endif

}  // namespace spanbert_ext
