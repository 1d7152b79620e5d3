// SPDX-License-Identifier: Apache-2.0
#include <iterator>

#include "tuning/tuning.h"
#include "vocab_ce/cross_entropy_rows.h"

namespace spanbert_ext {
namespace {

template <int kThreads, int kUnroll>
cudaError_t launch_variant(const CrossEntropy& problem, cudaStream_t stream) {
  constexpr int kBlocks = kThreads == 1024 ? 1 : 3;  // what 58 KB of shared memory each allow
  const size_t bytes = static_cast<size_t>(problem.chunk.pitch) * sizeof(__nv_bfloat16);
  return launch(&cross_entropy_rows<__nv_bfloat16, kThreads, kUnroll, kBlocks, true, false>,
                grid_of(problem.chunk.rows), dim3(kThreads), bytes, stream, problem);
}

}  // namespace

cudaError_t launch_cross_entropy_variant(const CrossEntropy& problem, int variant, cudaStream_t stream) {
  using Launch = cudaError_t (*)(const CrossEntropy&, cudaStream_t);
  constexpr Launch kLaunches[] = {&launch_variant<512, 1>, &launch_variant<512, 2>, &launch_variant<512, 4>,
                                  &launch_variant<256, 2>, &launch_variant<256, 4>, &launch_variant<1024, 1>,
                                  &launch_variant<1024, 2>};
  static_assert(std::size(kLaunches) == std::size(kCrossEntropyVariants));
  return kLaunches[variant](problem, stream);
}

}  // namespace spanbert_ext
