#include "span_mask/span_mask_cuda.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <limits>

#include "common/cuda_host.h"
#include "span_mask/span_mask_task.h"

namespace spanbert_ext {

SpanMaskTensors span_mask_cuda(const at::Tensor& input_ids, const at::Tensor& kinds,
                               const at::Tensor& random_ids, const at::Tensor& seed, const at::Tensor& epoch,
                               const std::optional<at::Tensor>& attention_mask,
                               const std::optional<at::Tensor>& sample_ids,
                               const std::optional<at::Tensor>& candidates, std::optional<int64_t> vocab_size,
                               int64_t mask_token_id, int64_t pad_token_id, double ratio, double p,
                               int64_t max_words, int64_t position_slots, double mask_share,
                               double random_share, bool replace_per_token, bool fill_after_candidates) {
  const CudaScope scope(input_ids);
  const SpanMaskArguments given{input_ids,
                                kinds,
                                random_ids,
                                seed,
                                epoch,
                                attention_mask,
                                sample_ids,
                                candidates,
                                vocab_size,
                                mask_token_id,
                                pad_token_id,
                                ratio,
                                p,
                                max_words,
                                position_slots,
                                mask_share,
                                random_share,
                                replace_per_token,
                                fill_after_candidates};
  check_arguments(given);
  if (input_ids.numel() == 0) return empty_outputs(given);
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
        at::empty({global_workspace_words(batch)}, input_ids.options().dtype(at::kLong));
    check_launch(
        "span_mask",
        launch_span_mask(batch, rules, reinterpret_cast<uint64_t*>(workspace.mutable_data_ptr<int64_t>()),
                         scope.stream()));
  });
  return outputs;
}

}  // namespace spanbert_ext
