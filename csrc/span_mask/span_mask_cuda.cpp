// SPDX-License-Identifier: Apache-2.0
#include "span_mask/span_mask_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <limits>

#include "common/cuda_host.h"
#include "span_mask/span_mask_task.h"

namespace spanbert_ext {

SpanMaskTensors span_mask_cuda(const SpanMaskArguments& given) {
  check_arguments(given);
  const at::Tensor& input_ids = given.input_ids;
  const CudaScope scope(input_ids);
  if (input_ids.numel() == 0) {
    if (debug_checks()) check_elements(contiguous_on(at::kCPU, without_rows(given)));
    return empty_outputs(given);
  }
  const int64_t rows = input_ids.size(0);
  TORCH_CHECK_VALUE(rows <= std::numeric_limits<int32_t>::max(), "span_mask: input_ids has ", rows,
                    " rows; expected fewer than 2^31");
  if (debug_checks()) {
    const SpanMaskArguments on_host = contiguous_on(at::kCPU, given);
    check_elements(on_host);
    check_rows(on_host, 0, rows);
  }
  const SpanMaskArguments arguments = contiguous_on(input_ids.device(), given);
  const SpanMaskTensors outputs = empty_outputs(arguments);
  const SpanRules rules = span_rules(arguments);
  AT_DISPATCH_INDEX_TYPES(input_ids.scalar_type(), "span_mask", [&] {
    const auto batch = span_batch<index_t>(arguments, outputs);
    // The kernel reads and writes it on this stream alone, so that the allocator may have it back at once.
    const at::Tensor workspace =
        at::empty({global_workspace_bit_words(batch)}, input_ids.options().dtype(at::kLong));
    check_launch(
        "span_mask",
        launch_span_mask(batch, rules, reinterpret_cast<uint64_t*>(workspace.mutable_data_ptr<int64_t>()),
                         scope.stream()));
  });
  return outputs;
}

}  // namespace spanbert_ext
