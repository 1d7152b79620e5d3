// What the CPU's and CUDA's host sides share: the arguments of span_mask, their checks, the outputs.
#pragma once

#include <limits>

#include "span_mask/span_batch.h"
#include "span_mask/span_mask.h"

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
};

// Every check that reads no element of a tensor.
void check_arguments(const SpanMaskArguments& arguments);

// The checks of elements. They need contiguous CPU tensors, and arguments that passed check_arguments.
// check_rows alone reads every token: the CPU calls it to name what its row loop has stumbled upon.
void check_elements(const SpanMaskArguments& arguments);
void check_rows(const SpanMaskArguments& arguments, int64_t begin, int64_t end);

// The same arguments with tensors that are contiguous and lie on `device`.
SpanMaskArguments contiguous_on(at::Device device, SpanMaskArguments arguments);

SpanMaskTensors empty_outputs(const SpanMaskArguments& arguments);

// Both of them point into tensors: contiguous arguments, and outputs of empty_outputs.
SpanRules span_rules(const SpanMaskArguments& arguments);
template <typename Id>
SpanBatch<Id> span_batch(const SpanMaskArguments& arguments, const SpanMaskTensors& outputs);

}  // namespace spanbert_ext
