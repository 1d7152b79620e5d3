// SPDX-License-Identifier: Apache-2.0
// The CPU's loop over rows: kinds to bit sets, then the rules of span_rules.h. Torch-free.
#pragma once

#include "common/cpu_kernels.h"
#include "span_mask/span_batch.h"

namespace spanbert_ext {

constexpr int kRowsAtOnce = 2;

// clang-format off
SPANBERT_EXT_DECLARE_CPU_KERNELS(
  // Masks rows [begin, end); `workspace`: kRowsAtOnce * workspace_words(batch.words) bit words. Returns the first
  // row with an id out of range or an unknown kind, or `end`.
  template <typename Id>
  int64_t mask_rows(const SpanBatch<Id>& batch, const SpanRules& rules, int64_t begin, int64_t end,
                    uint64_t* workspace);
)
// clang-format on

}  // namespace spanbert_ext
