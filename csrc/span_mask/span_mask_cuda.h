// SPDX-License-Identifier: Apache-2.0
// span_mask on CUDA: one block per row; its threads read tokens and write outputs, one of them samples.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "span_mask/span_batch.h"

namespace spanbert_ext {

constexpr int kSpanMaskThreads = 128;
constexpr int64_t kSpanMaskSharedBytes = 48 * 1024;  // what every device gives a block without being asked

// The shared memory of a block: proposals drawn ahead, scratch of a reduction, then what fits of the row's
// bit sets and its ids. Long rows keep their bit sets in global memory and read their ids again.
struct SpanMaskLayout {
  int64_t fixed_bytes, bits_bytes, ids_bytes;

  SPANBERT_EXT_HOST_DEVICE_MEMBER SpanMaskLayout(int64_t bit_words, int64_t length, int64_t id_bytes)
      : fixed_bytes(kSpanMaskThreads * sizeof(Proposal) + 32 * sizeof(uint64_t)),
        bits_bytes(workspace_bit_words(bit_words) * sizeof(uint64_t)),
        ids_bytes(length * id_bytes) {
    if (fixed_bytes + bits_bytes > kSpanMaskSharedBytes) bits_bytes = 0;
    if (fixed_bytes + bits_bytes + ids_bytes > kSpanMaskSharedBytes) ids_bytes = 0;
  }
  SPANBERT_EXT_HOST_DEVICE_MEMBER int64_t shared_bytes() const {
    return fixed_bytes + bits_bytes + ids_bytes;
  }
};

// Words of global memory for the bit sets of all rows; 0 where shared memory holds them.
template <typename Id>
int64_t global_workspace_bit_words(const SpanBatch<Id>& batch) {
  const SpanMaskLayout layout(batch.bit_words, batch.length, sizeof(Id));
  return layout.bits_bytes > 0 ? 0 : batch.rows * workspace_bit_words(batch.bit_words);
}

template <typename Id>
cudaError_t launch_span_mask(const SpanBatch<Id>& batch, const SpanRules& rules, uint64_t* workspace,
                             cudaStream_t stream);

}  // namespace spanbert_ext
