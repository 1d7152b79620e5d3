// SPDX-License-Identifier: Apache-2.0
#include "span_mask/span_mask.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "common/cpu_capability.h"
#include "span_mask/span_mask_kernel.h"
#include "span_mask/span_mask_task.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kTokensPerTask = 16384;

template <typename Id>
auto mask_rows_here() {
#if defined(__x86_64__)
  static const bool slow = has_slow_bit_select();
  if (slow) return DEFAULT::mask_rows<Id>;
#endif
  return SPANBERT_EXT_CPU_DISPATCH(mask_rows<Id>);
}

// Returns the first row that could not be read, or B.
template <typename Id>
int64_t mask_batch(const SpanBatch<Id>& batch, const SpanRules& rules) {
  std::atomic<int64_t> first_bad{batch.rows};
  const auto mask_rows = mask_rows_here<Id>();
  const int64_t grain = std::max<int64_t>(1, kTokensPerTask / std::max<int64_t>(1, batch.length));
  at::parallel_for(0, batch.rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> workspace(kRowsAtOnce * workspace_bit_words(batch.bit_words));
    const int64_t stopped_at = mask_rows(batch, rules, begin, end, workspace.data());
    int64_t known = first_bad.load();
    while (stopped_at < end && stopped_at < known && !first_bad.compare_exchange_weak(known, stopped_at)) {
    }
  });
  return first_bad.load();
}

// One look-up then gives a token's kind and whether it is padding.
std::vector<uint8_t> table_with_padding(const SpanMaskArguments& arguments) {
  if (arguments.kinds.dim() != 1) return {};
  const uint8_t* kinds = arguments.kinds.const_data_ptr<uint8_t>();
  const int64_t vocab_size = arguments.kinds.size(0), pad = arguments.pad_token_id;
  std::vector<uint8_t> table(kinds, kinds + vocab_size);
  if (0 <= pad && pad < vocab_size) table[pad] |= kPadding;
  return table;
}

}  // namespace

SpanMaskTensors span_mask_cpu(const SpanMaskArguments& given) {
  check_arguments(given);
  const bool has_tokens = given.input_ids.numel() > 0;
  const SpanMaskArguments arguments = contiguous_on(at::kCPU, has_tokens ? given : without_rows(given));
  check_elements(arguments);
  if (!has_tokens) return empty_outputs(given);
  const SpanMaskTensors outputs = empty_outputs(arguments);
  const SpanRules rules = span_rules(arguments);
  const std::vector<uint8_t> table = table_with_padding(arguments);
  AT_DISPATCH_INDEX_TYPES(given.input_ids.scalar_type(), "span_mask", [&] {
    auto batch = span_batch<index_t>(arguments, outputs);
    if (!table.empty()) batch.table = table.data();
    const int64_t bad_row = mask_batch(batch, rules);
    if (bad_row < batch.rows) check_rows(arguments, bad_row, bad_row + 1);
  });
  return outputs;
}

}  // namespace spanbert_ext
