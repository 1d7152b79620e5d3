// SPDX-License-Identifier: Apache-2.0
// A batch of span_mask as raw pointers, for the CPU's loop and the CUDA kernel. Torch-free.
#pragma once

#include <cstdint>

#include "span_mask/span_rules.h"

namespace spanbert_ext {

// Everything is contiguous.
template <typename Id>
struct SpanBatch {
  int64_t rows, length, entries;  // B, L, K
  int64_t bit_words;              // of a row's bit set: L / 64 + 1
  const Id* ids;                  // [B, L]
  const uint8_t* table;           // [V] kinds by id, or null; on the CPU with the padding's own
  const uint8_t* kinds;           // [B, L] explicit kinds, or null
  const void* attention;          // [B, L] integers of attention_bytes each, 0 is padding, or null
  int64_t attention_bytes;
  const int64_t* seed;        // []
  const int64_t* sample_ids;  // [B], or null: hash the row
  const int64_t* epochs;      // [B] with epoch_stride 1, or [1] with 0
  int64_t epoch_stride;
  Candidates candidates;  // of all rows: bounds [B, M, 2], count M
  int64_t vocab_size, pad_token_id;
  RowOutput<Id> out;  // of all rows
};

// `hash`: what names the row where no sample ids are given.
template <typename Id>
SPANBERT_EXT_HOST_DEVICE RowRandom row_random(const SpanBatch<Id>& batch, int64_t b, uint64_t hash) {
  const uint64_t sample_id = batch.sample_ids != nullptr ? static_cast<uint64_t>(batch.sample_ids[b]) : hash;
  return {static_cast<uint64_t>(*batch.seed), sample_id,
          static_cast<uint32_t>(batch.epochs[b * batch.epoch_stride])};
}

template <typename Id>
SPANBERT_EXT_HOST_DEVICE Candidates row_candidates(const SpanBatch<Id>& batch, int64_t b) {
  Candidates candidates = batch.candidates;
  candidates.bounds += b * candidates.count * 2;
  return candidates;
}

template <typename Id>
SPANBERT_EXT_HOST_DEVICE RowOutput<Id> row_output(const SpanBatch<Id>& batch, int64_t b) {
  const int64_t token = b * batch.length, entry = b * batch.entries;
  return {batch.out.masked_ids + token, batch.out.labels + token, batch.out.masked_positions + entry,
          batch.out.left_boundary + entry, batch.out.right_boundary + entry};
}

// Bit words of workspace for a row's bit sets and counts.
SPANBERT_EXT_HOST_DEVICE int64_t workspace_bit_words(int64_t bit_words) {
  return 3 * bit_words + (bit_words + 7) / 8;
}

SPANBERT_EXT_HOST_DEVICE RowBits row_bits(uint64_t* workspace, int64_t bit_words) {
  return {workspace, workspace + bit_words, workspace + 2 * bit_words,
          reinterpret_cast<uint8_t*>(workspace + 3 * bit_words)};
}

}  // namespace spanbert_ext
