// SPDX-License-Identifier: Apache-2.0
#include "vocab_ce/cross_entropy_rows.h"

namespace spanbert_ext {
namespace {

// 40 registers a thread let three blocks share a multiprocessor.
constexpr int kThreads = 512, kUnroll = 2, kBlocks = 3;

template <typename T>
cudaError_t launch_rows(const CrossEntropy& problem, cudaStream_t stream) {
  int64_t limit = 0;
  const cudaError_t error = kept_row_limit(&limit);
  if (error != cudaSuccess) return error;
  const int64_t bytes = problem.chunk.pitch * static_cast<int64_t>(sizeof(T));
  const bool keep = bytes <= limit, smoothing = problem.smoothing > 0;
  const auto kernel = keep ? (smoothing ? &cross_entropy_rows<T, kThreads, kUnroll, kBlocks, true, true>
                                        : &cross_entropy_rows<T, kThreads, kUnroll, kBlocks, true, false>)
                           : (smoothing ? &cross_entropy_rows<T, kThreads, kUnroll, kBlocks, false, true>
                                        : &cross_entropy_rows<T, kThreads, kUnroll, kBlocks, false, false>);
  return launch(kernel, grid_of(problem.chunk.rows), dim3(kThreads), keep ? static_cast<size_t>(bytes) : 0,
                stream, problem);
}

}  // namespace

cudaError_t launch_cross_entropy_rows(const CrossEntropy& problem, cudaStream_t stream) {
  if (problem.chunk.type == FloatType::kBFloat16) return launch_rows<__nv_bfloat16>(problem, stream);
  return launch_rows<__half>(problem, stream);
}

}  // namespace spanbert_ext
