// The CPU's loop over rows: kinds to bit sets, then the rules of span_rules.h. Torch-free.
#pragma once

#include "span_mask/span_batch.h"

namespace spanbert_ext {

// Masks rows [begin, end); `workspace`: workspace_words(batch.words) words. Returns the first row with an id
// out of range or an unknown kind, or `end`.
template <typename Id>
int64_t mask_rows(const SpanBatch<Id>& batch, const SpanRules& rules, int64_t begin, int64_t end,
                  uint64_t* workspace);

}  // namespace spanbert_ext
