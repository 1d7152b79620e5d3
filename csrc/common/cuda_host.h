// SPDX-License-Identifier: Apache-2.0
// What the host side of every CUDA operator needs: device and stream, float types for kernels, GEMMs. Host
// files take them from here and see no CUDA header: SPANBERT_EXT_EMULATE_CUDA replaces the device by
// tests/emulated_cuda.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <cstdlib>
#include <string_view>

#include "common/dtypes.h"
#include "common/float_type.h"

#ifdef SPANBERT_EXT_EMULATE_CUDA
#include <ATen/Functions.h>
#include <cuda_runtime.h>
#else
#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace spanbert_ext {

// Makes the tensor's device current for the rest of the scope.
class CudaScope {
 public:
#ifdef SPANBERT_EXT_EMULATE_CUDA
  explicit CudaScope(const at::Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
#else
  explicit CudaScope(const at::Tensor& tensor) : guard_(tensor.device()) {}
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream().stream(); }

 private:
  c10::cuda::CUDAGuard guard_;
#endif
};

// Of the current device.
inline int multiprocessors() {
#ifdef SPANBERT_EXT_EMULATE_CUDA
  return 2;  // few, so that small tests meet several waves
#else
  int device = 0, count = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#endif
}

inline void check_launch(const char* op, cudaError_t error) {
  TORCH_CHECK(error == cudaSuccess, op, ": a CUDA kernel could not be launched: ", cudaGetErrorString(error));
}

// SPANBERT_EXT_DEBUG=1: elements are checked on the host before kernels read them, at the price of a
// synchronisation.
inline bool debug_checks() {
#ifdef SPANBERT_EXT_EMULATE_CUDA
  constexpr const char* kDefault = "1";  // elements are at hand, as for the CPU operators
#else
  constexpr const char* kDefault = "0";
#endif
  const char* value = std::getenv("SPANBERT_EXT_DEBUG");
  return std::string_view(value == nullptr ? kDefault : value) == "1";
}

inline FloatType float_type(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return FloatType::kDouble;
    case at::kFloat:
      return FloatType::kFloat;
    case at::kBFloat16:
      return FloatType::kBFloat16;
    case at::kHalf:
      return FloatType::kHalf;
    default:
      TORCH_INTERNAL_ASSERT(false, "no kernel for ", type);
  }
}

// out = a @ b, or out += a @ b. `out` has the operands' dtype, or float32 (products of bfloat16 and float16
// are then summed and left in float32); its rows may be longer than the product (a pitch).
inline void multiply_cuda(at::Tensor out, const at::Tensor& a, const at::Tensor& b, bool accumulate = false) {
#ifdef SPANBERT_EXT_EMULATE_CUDA
  // Sums in float32, rounded once. cuBLAS may round parts of a long sum to the 16 bits of `out` before it adds them, where
  // torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction lets it.
  const at::ScalarType wide = accumulation_dtype(a.scalar_type());
  const at::Tensor product = at::mm(a.to(wide), b.to(wide));
  accumulate ? out.copy_(product.add_(out)) : out.copy_(product);
#else
  if (out.scalar_type() == a.scalar_type()) {
    accumulate ? at::addmm_out(out, out, a, b) : at::mm_out(out, a, b);
  } else if (accumulate) {
    at::addmm_out(out, out, a, b, out.scalar_type());
  } else {
    at::mm_out(out, a, b, out.scalar_type());
  }
#endif
}

}  // namespace spanbert_ext
