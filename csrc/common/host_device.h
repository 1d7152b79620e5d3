// SPDX-License-Identifier: Apache-2.0
// Marks functions that CPU code and CUDA kernels share. For a plain C++ compiler they are each file's own: as
// weak symbols, code for a newer CPU could be linked into what an older one runs.
#pragma once

#ifdef __CUDACC__
#define SPANBERT_EXT_HOST_DEVICE inline __host__ __device__
#define SPANBERT_EXT_HOST_DEVICE_MEMBER __host__ __device__
#else
#define SPANBERT_EXT_HOST_DEVICE static inline
#define SPANBERT_EXT_HOST_DEVICE_MEMBER
#endif
