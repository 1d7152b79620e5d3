// SPDX-License-Identifier: Apache-2.0
// One block per row. All threads turn tokens into bit sets, and at the end masked tokens into outputs;
// between them one thread samples the spans with span_rules.h, over shared memory and with proposals that all
// threads drew ahead of it. A bit word is two ballots of a warp.
#include "common/cuda_launch.h"
#include "span_mask/span_mask_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kThreads = kSpanMaskThreads, kWarps = kThreads / kWarpLanes;

// Ones of a bit set below a position that only grows: every thread counts each bit word once.
class Rank {
 public:
  __device__ explicit Rank(const uint64_t* set) : set_(set) {}

  __device__ int64_t before_bit_word(int64_t bit_word) {
    for (; bit_word_ < bit_word; ++bit_word_) ones_ += count_ones(set_[bit_word_]);
    return ones_;
  }
  __device__ int64_t before(int64_t position) {
    const int64_t bit_word = position >> 6;
    return before_bit_word(bit_word) + count_ones(set_[bit_word] & ~(~uint64_t{0} << (position & 63)));
  }

 private:
  const uint64_t* set_;
  int64_t bit_word_ = 0, ones_ = 0;
};

// The row's proposals: the first from shared memory, where all threads left one each.
class Proposals {
 public:
  __device__ Proposals(const SpanRules& rules, const RowRandom& random, const Proposal* made)
      : rules_(rules), random_(random), made_(made) {}

  __device__ Proposal operator()(int64_t d) const { return d < kThreads ? made_[d] : make(d); }
  __device__ Proposal make(int64_t d) const {
    return make_proposal(rules_, draw_from<1>(random_, Stream::kProposal, d), 0);
  }

 private:
  const SpanRules& rules_;
  const RowRandom& random_;
  const Proposal* made_;
};

__device__ bool is_zero(const void* integers, int64_t bytes, int64_t i) {
  switch (bytes) {
    case 1:
      return static_cast<const uint8_t*>(integers)[i] == 0;
    case 2:
      return static_cast<const uint16_t*>(integers)[i] == 0;
    case 4:
      return static_cast<const uint32_t*>(integers)[i] == 0;
    default:
      return static_cast<const uint64_t*>(integers)[i] == 0;
  }
}

// The kind of token i of the batch. Nothing has checked the id: one out of range is special.
template <typename Id>
__device__ int read_kind(const SpanBatch<Id>& batch, int64_t i, Id id) {
  if (id == batch.pad_token_id) return kPadding;
  if (batch.attention != nullptr && is_zero(batch.attention, batch.attention_bytes, i)) return kPadding;
  if (static_cast<uint64_t>(id) >= static_cast<uint64_t>(batch.vocab_size)) return kSpecial;
  return (batch.table != nullptr ? batch.table[id] : batch.kinds[i]) & (kStarts | kSpecial);
}

__device__ uint64_t ballot(int low, int high, int bit) {
  const uint64_t low_bits = __ballot_sync(kAllLanes, (low & bit) != 0);
  const uint64_t high_bits = __ballot_sync(kAllLanes, (high & bit) != 0);
  return high_bits << kWarpLanes | low_bits;
}

// Reads the row's tokens: special and starts as they are, and in `available` the padding. Ids are copied to
// `staged` unless it is null.
template <typename Id>
__device__ void read_kinds(const SpanBatch<Id>& batch, int64_t first_token, const RowBits& row, Id* staged) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes,
            warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const auto read = [&](int64_t i) -> int {
    if (i >= batch.length) return kPadding;
    const Id id = batch.ids[first_token + i];
    if (staged != nullptr) staged[i] = id;
    return read_kind(batch, first_token + i, id);
  };
  for (int64_t bit_word = warp; bit_word < batch.bit_words; bit_word += kWarps) {
    const int low = read(bit_word * 64 + lane), high = read(bit_word * 64 + kWarpLanes + lane);
    const uint64_t special = ballot(low, high, kSpecial), starts = ballot(low, high, kStarts),
                   tokens = ~ballot(low, high, kPadding & ~kSpecial);
    if (lane == 0) {
      row.special[bit_word] = special;
      row.barriers[bit_word] = starts;
      row.available[bit_word] = tokens;
    }
  }
}

// The row's default sample id. `tokens`: the positions that are no padding.
template <typename Id>
__device__ uint64_t hash_row(const uint64_t* tokens, int64_t bit_words, const Id* ids, int64_t length,
                             uint64_t* scratch) {
  Rank rank(tokens);
  uint64_t sum = 0;
  for (int64_t i = threadIdx.x; i < length; i += kThreads) {
    if (has_bit(tokens, i)) sum += hash_token(ids[i], static_cast<uint64_t>(rank.before(i)));
  }
  sum = reduce_block(sum, uint64_t{0}, Add{}, scratch);
  return mix64(sum + static_cast<uint64_t>(rank.before_bit_word(bit_words)) * kGolden);
}

// Bit sets as the rules read them, from what read_kinds left.
__device__ void finish_bits(const RowBits& row, int64_t bit_words) {
  for (int64_t bit_word = threadIdx.x; bit_word < (bit_words + 7) / 8 * 8; bit_word += kThreads) {
    const uint64_t available = bit_word < bit_words ? ~row.special[bit_word] : 0;
    row.counts[bit_word] = static_cast<uint8_t>(count_ones(available));
    if (bit_word >= bit_words) continue;
    bool after_special = bit_word == 0 || (row.special[bit_word - 1] >> 63) != 0;
    row.barriers[bit_word] = find_barriers(row.special[bit_word], row.barriers[bit_word], &after_special);
    row.available[bit_word] = available;
  }
}

// After sampling: `available` becomes the masked positions, and `barriers` those of them that begin a span.
__device__ void find_spans(const RowBits& row, int64_t bit_words) {
  const auto masked = [&](int64_t bit_word) { return ~(row.special[bit_word] | row.available[bit_word]); };
  for (int64_t bit_word = threadIdx.x; bit_word < bit_words; bit_word += kThreads) {
    const uint64_t before = bit_word > 0 ? masked(bit_word - 1) >> 63 : 0;
    row.barriers[bit_word] = masked(bit_word) & ~(masked(bit_word) << 1 | before);
  }
  __syncthreads();
  for (int64_t bit_word = threadIdx.x; bit_word < bit_words; bit_word += kThreads)
    row.available[bit_word] = masked(bit_word);
  __syncthreads();
}

// Every output of the row, a thread per position.
template <typename Id>
__device__ void write_row(const SpanRules& rules, const RowRandom& random, const RowBits& row,
                          int64_t bit_words, const Id* ids, int64_t length, int64_t entries,
                          const RowOutput<Id>& out) {
  const uint64_t* masked = row.available;
  Rank rank(masked);
  for (int64_t i = threadIdx.x; i < length; i += kThreads) {
    Id id = ids[i];
    const bool is_masked = has_bit(masked, i);
    out.labels[i] = is_masked ? static_cast<int64_t>(id) : kNoLabel;
    if (is_masked) {
      const int64_t begin = previous_in(row.barriers, i), end = next_outside(masked, i);
      write_entry(i, begin, end, count_targets(rules, row.special, begin, end), rank.before(i), out);
      const auto choice = draw_from<1>(random, Stream::kReplacement, rules.replace_per_token ? i : begin);
      const Replacement replacement = choose_replacement(rules, choice.word[0][0]);
      if (replacement == Replacement::kMask) id = static_cast<Id>(rules.mask_token_id);
      if (replacement == Replacement::kRandom) {
        id = static_cast<Id>(random_id(rules, draw_from<1>(random, Stream::kRandomId, i), 0));
      }
    }
    out.masked_ids[i] = id;
  }
  for (int64_t entry = rank.before_bit_word(bit_words) + threadIdx.x; entry < entries; entry += kThreads) {
    clear_entry(entry, out);
  }
}

template <typename Id>
__global__ void __launch_bounds__(kThreads)
    mask_row(const __grid_constant__ SpanBatch<Id> batch, const __grid_constant__ SpanRules rules,
             uint64_t* workspace) {
  SPANBERT_EXT_DYNAMIC_SHARED(char, shared);
  const int64_t b = blockIdx.x, bit_words = batch.bit_words;
  const SpanMaskLayout layout(bit_words, batch.length, sizeof(Id));
  Proposal* made = reinterpret_cast<Proposal*>(shared);
  uint64_t* scratch = reinterpret_cast<uint64_t*>(made + kThreads);
  char* variable = shared + layout.fixed_bytes;
  const RowBits row = row_bits(layout.bits_bytes > 0 ? reinterpret_cast<uint64_t*>(variable)
                                                     : workspace + b * workspace_bit_words(bit_words),
                               bit_words);
  Id* staged = layout.ids_bytes > 0 ? reinterpret_cast<Id*>(variable + layout.bits_bytes) : nullptr;
  const Id* ids = staged != nullptr ? staged : batch.ids + b * batch.length;

  read_kinds(batch, b * batch.length, row, staged);
  __syncthreads();
  uint64_t hash = 0;
  if (batch.sample_ids == nullptr) hash = hash_row(row.available, bit_words, ids, batch.length, scratch);
  __syncthreads();
  finish_bits(row, bit_words);
  const RowRandom random = row_random(batch, b, hash);
  const Proposals proposals(rules, random, made);
  made[threadIdx.x] = proposals.make(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    const Candidates candidates = row_candidates(batch, b);
    Sampling sampling = begin_sampling(rules, Rank(row.available).before_bit_word(bit_words), candidates);
    while (sample_span(rules, random, proposals, row, candidates, &sampling)) {
    }
  }
  __syncthreads();
  find_spans(row, bit_words);
  write_row(rules, random, row, bit_words, ids, batch.length, batch.entries, row_output(batch, b));
}

}  // namespace

template <typename Id>
cudaError_t launch_span_mask(const SpanBatch<Id>& batch, const SpanRules& rules, uint64_t* workspace,
                             cudaStream_t stream) {
  const SpanMaskLayout layout(batch.bit_words, batch.length, sizeof(Id));
  return launch(mask_row<Id>, grid_of(batch.rows), dim3(kThreads), static_cast<size_t>(layout.shared_bytes()),
                stream, batch, rules, workspace);
}

template cudaError_t launch_span_mask(const SpanBatch<int32_t>&, const SpanRules&, uint64_t*, cudaStream_t);
template cudaError_t launch_span_mask(const SpanBatch<int64_t>&, const SpanRules&, uint64_t*, cudaStream_t);

}  // namespace spanbert_ext
