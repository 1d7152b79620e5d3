// Marks functions that CPU code and CUDA kernels share; a plain C++ compiler sees nothing.
#pragma once

#ifdef __CUDACC__
#define SPANBERT_EXT_HOST_DEVICE __host__ __device__
#else
#define SPANBERT_EXT_HOST_DEVICE
#endif
