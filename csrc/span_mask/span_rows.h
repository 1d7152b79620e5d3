// The CPU's loop over rows: kinds to bit sets, then the rules of span_rules.h. Torch-free.
#pragma once

#include <cstdint>

#include "span_mask/span_rules.h"

namespace spanbert_ext {

// A batch as raw pointers; everything is contiguous.
template <typename Id>
struct SpanBatch {
  int64_t rows, length, slots;  // B, L, K
  int64_t words;                // 64-bit words in the bit set of a row: L / 64 + 1
  const Id* ids;                // [B, L]
  const uint8_t* table;         // [V] kinds by id, or null
  const uint8_t* kinds;         // [B, L] explicit kinds, or null
  const void* attention;        // [B, L] integers of attention_bytes each, 0 is padding, or null
  int64_t attention_bytes;
  const int64_t* sample_ids;  // [B], or null: hash the row
  const int64_t* epochs;      // [B] with epoch_stride 1, or [1] with 0
  int64_t epoch_stride;
  Candidates candidates;  // of all rows: bounds [B, M, 2], count M
  int64_t vocab_size, pad_token_id;
  uint64_t seed;
  RowOutput<Id> out;  // of all rows
};

// 64-bit words of workspace that mask_rows needs: three bit sets and the counts.
inline int64_t workspace_words(int64_t words) { return 3 * words + (words + 7) / 8; }

// Masks rows [begin, end). Returns the first row with an id out of range or an unknown kind, or `end`.
template <typename Id>
int64_t mask_rows(const SpanBatch<Id>& batch, const SpanRules& rules, int64_t begin, int64_t end,
                  uint64_t* workspace);

}  // namespace spanbert_ext
