// SPDX-License-Identifier: Apache-2.0
// Declares one kernel header's contents once per compiled instruction set, each in a namespace of its own.
#pragma once

#if defined(__x86_64__)
#define SPANBERT_EXT_DECLARE_CPU_KERNELS(...) \
  namespace DEFAULT {                         \
  __VA_ARGS__                                 \
  }                                           \
  namespace AVX2 {                            \
  __VA_ARGS__                                 \
  }                                           \
  namespace AVX512 {                          \
  __VA_ARGS__                                 \
  }
#else
#define SPANBERT_EXT_DECLARE_CPU_KERNELS(...) \
  namespace DEFAULT {                         \
  __VA_ARGS__                                 \
  }
#endif
