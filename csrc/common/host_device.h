// Marks functions that CPU code and CUDA kernels share; a plain C++ compiler sees `inline`.
#pragma once

#ifdef __CUDACC__
#define SPANBERT_EXT_HOST_DEVICE inline __host__ __device__
#else
#define SPANBERT_EXT_HOST_DEVICE inline
#endif

// Before a loop over a few independent lanes, which compilers otherwise unroll into scalar code.
#if defined(_OPENMP) && !defined(__CUDACC__)
#define SPANBERT_EXT_SIMD _Pragma("omp simd")
#else
#define SPANBERT_EXT_SIMD
#endif
