// SPDX-License-Identifier: Apache-2.0
#include "span_mask/span_mask_task.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <limits>

namespace spanbert_ext {
namespace {

constexpr double kTwoTo32 = 4294967296.0;

// P(length <= k) of the geometric distribution truncated to 1..max_words, as floor(P * 2^32).
void fill_length_thresholds(double p, int max_words, uint64_t* thresholds) {
  // volatile: no compiler may fuse a product into a sum, so that every platform rounds alike.
  volatile double cumulative[kMaxWordsLimit];
  volatile double weight = p;
  cumulative[0] = p;
  for (int k = 1; k < max_words; ++k) {
    weight = weight * (1.0 - p);
    cumulative[k] = cumulative[k - 1] + weight;
  }
  for (int k = 0; k < max_words; ++k) {
    thresholds[k] = static_cast<uint64_t>(cumulative[k] / cumulative[max_words - 1] * kTwoTo32);
  }
}

}  // namespace

uint64_t share_threshold(double share) { return static_cast<uint64_t>(share * kTwoTo32); }

int64_t vocabulary_of(const SpanMaskArguments& arguments) {
  if (arguments.kinds.dim() == 1) return arguments.kinds.size(0);
  const int64_t all_ids =
      arguments.input_ids.scalar_type() == at::kInt ? int64_t{1} << 31 : std::numeric_limits<int64_t>::max();
  return std::min(arguments.vocab_size.value_or(all_ids), all_ids);
}

SpanMaskArguments contiguous_on(at::Device device, SpanMaskArguments arguments) {
  const auto move = [&](at::Tensor& tensor) { tensor = tensor.to(device).contiguous(); };
  for (at::Tensor* tensor :
       {&arguments.input_ids, &arguments.kinds, &arguments.random_ids, &arguments.seed, &arguments.epoch}) {
    move(*tensor);
  }
  for (auto* tensor : {&arguments.attention_mask, &arguments.sample_ids, &arguments.candidates}) {
    if (*tensor) move(**tensor);
  }
  return arguments;
}

SpanMaskArguments without_rows(SpanMaskArguments arguments) {
  const auto drop = [](at::Tensor& tensor) { tensor = tensor.narrow(0, 0, 0); };
  drop(arguments.input_ids);
  if (arguments.kinds.dim() == 2) drop(arguments.kinds);
  if (arguments.epoch.dim() == 1) drop(arguments.epoch);
  for (auto* tensor : {&arguments.attention_mask, &arguments.sample_ids, &arguments.candidates}) {
    if (*tensor) drop(**tensor);
  }
  return arguments;
}

// On a CPU the outputs share one allocation: five of them, freed together, are more than glibc keeps, and
// every call would take its pages from the system again, which costs as much as masking.
SpanMaskTensors empty_outputs(const SpanMaskArguments& arguments) {
  const at::Tensor& ids = arguments.input_ids;
  const int64_t rows = ids.size(0), length = ids.size(1), entries = token_budget(arguments.ratio, length);
  const auto index_options = ids.options().dtype(at::kLong);
  if (!ids.is_cpu()) {
    return {at::empty({rows, length}, ids.options()), at::empty({rows, length}, index_options),
            at::empty({rows, entries}, index_options), at::empty({rows, entries}, index_options),
            at::empty({rows, entries}, index_options)};
  }
  const auto bytes = [](int64_t elements) { return (elements * int64_t{8} + 63) / 64 * 64; };
  const at::Tensor memory = at::empty({2 * bytes(rows * length) + 3 * bytes(rows * entries)}, at::kByte);
  uint8_t* next = memory.mutable_data_ptr<uint8_t>();
  const auto take = [&](int64_t columns, const at::TensorOptions& options) {
    uint8_t* data = next;
    next += bytes(rows * columns);
    return at::from_blob(data, {rows, columns}, [memory](void*) {}, options);
  };
  const at::Tensor masked_ids = take(length, ids.options()), labels = take(length, index_options),
                   masked_positions = take(entries, index_options),
                   left_boundary = take(entries, index_options),
                   right_boundary = take(entries, index_options);
  return {masked_ids, labels, masked_positions, left_boundary, right_boundary};
}

SpanRules span_rules(const SpanMaskArguments& arguments) {
  SpanRules rules{};
  rules.ratio = arguments.ratio;
  rules.max_words = static_cast<int>(arguments.max_words);
  fill_length_thresholds(arguments.p, rules.max_words, rules.length_thresholds);
  rules.mask_threshold = share_threshold(arguments.mask_share);
  rules.random_threshold = share_threshold(arguments.mask_share + arguments.random_share);
  rules.candidate_threshold = share_threshold(arguments.candidate_share);
  rules.position_slots = arguments.position_slots;
  rules.mask_token_id = arguments.mask_token_id;
  rules.replace_per_token = arguments.replace_per_token;
  rules.fill_after_candidates = arguments.fill_after_candidates;
  rules.random_ids = arguments.random_ids.const_data_ptr<int64_t>();
  rules.random_count = arguments.random_ids.numel();
  return rules;
}

template <typename Id>
SpanBatch<Id> span_batch(const SpanMaskArguments& arguments, const SpanMaskTensors& outputs) {
  const auto& [masked_ids, labels, masked_positions, left_boundary, right_boundary] = outputs;
  SpanBatch<Id> batch{};
  batch.rows = arguments.input_ids.size(0);
  batch.length = arguments.input_ids.size(1);
  batch.entries = masked_positions.size(1);
  batch.bit_words = batch.length / 64 + 1;
  batch.ids = arguments.input_ids.const_data_ptr<Id>();
  (arguments.kinds.dim() == 1 ? batch.table : batch.kinds) = arguments.kinds.const_data_ptr<uint8_t>();
  if (arguments.attention_mask) {
    batch.attention = arguments.attention_mask->const_data_ptr();
    batch.attention_bytes = arguments.attention_mask->element_size();
  }
  batch.seed = arguments.seed.const_data_ptr<int64_t>();
  if (arguments.sample_ids) batch.sample_ids = arguments.sample_ids->const_data_ptr<int64_t>();
  batch.epochs = arguments.epoch.const_data_ptr<int64_t>();
  batch.epoch_stride = arguments.epoch.dim();
  if (arguments.candidates) {
    batch.candidates = {true, arguments.candidates->const_data_ptr<int64_t>(), arguments.candidates->size(1),
                        batch.length};
  }
  batch.vocab_size = vocabulary_of(arguments);
  batch.pad_token_id = arguments.pad_token_id;
  batch.out = {masked_ids.mutable_data_ptr<Id>(), labels.mutable_data_ptr<int64_t>(),
               masked_positions.mutable_data_ptr<int64_t>(), left_boundary.mutable_data_ptr<int64_t>(),
               right_boundary.mutable_data_ptr<int64_t>()};
  return batch;
}

template SpanBatch<int32_t> span_batch(const SpanMaskArguments&, const SpanMaskTensors&);
template SpanBatch<int64_t> span_batch(const SpanMaskArguments&, const SpanMaskTensors&);

}  // namespace spanbert_ext
