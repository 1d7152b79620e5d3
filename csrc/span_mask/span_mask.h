// SPDX-License-Identifier: Apache-2.0
// span_mask: span sampling, 80/10/10 replacement, labels and SBO indices of a whole batch in one pass over
// the ids. Nothing is materialised between them but a few bit sets per row. The rules are in span_rules.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace spanbert_ext {

struct SpanMaskArguments {
  at::Tensor input_ids, kinds, random_ids, seed, epoch;
  std::optional<at::Tensor> attention_mask, sample_ids, candidates;
  std::optional<int64_t> vocab_size;
  int64_t mask_token_id, pad_token_id;
  double ratio, p;
  int64_t max_words, position_slots;
  double mask_share, random_share;
  bool replace_per_token, fill_after_candidates;
  double candidate_share;
};

// masked_ids [B, L], labels [B, L], masked_positions [B, K], left_boundary [B, K], right_boundary [B, K]
using SpanMaskTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

SpanMaskTensors span_mask_cpu(const SpanMaskArguments& arguments);
SpanMaskTensors span_mask_cuda(const SpanMaskArguments& arguments);

}  // namespace spanbert_ext
