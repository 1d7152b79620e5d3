// span_mask: span sampling, 80/10/10 replacement, labels and SBO indices of a whole batch in one pass over
// the ids. Nothing is materialised between them but a few bit sets per row. The rules are in span_rules.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

// masked_ids [B, L], labels [B, L], masked_positions [B, K], left_boundary [B, K], right_boundary [B, K]
using SpanMaskTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

using SpanMask = SpanMaskTensors(const at::Tensor& input_ids, const at::Tensor& kinds,
                                 const at::Tensor& random_ids, const at::Tensor& seed,
                                 const at::Tensor& epoch, const std::optional<at::Tensor>& attention_mask,
                                 const std::optional<at::Tensor>& sample_ids,
                                 const std::optional<at::Tensor>& candidates,
                                 std::optional<int64_t> vocab_size, int64_t mask_token_id,
                                 int64_t pad_token_id, double ratio, double p, int64_t max_words,
                                 int64_t position_slots, double mask_share, double random_share,
                                 bool replace_per_token, bool fill_after_candidates);

SpanMask span_mask_cpu;
SpanMask span_mask_cuda;

}  // namespace spanbert_ext
