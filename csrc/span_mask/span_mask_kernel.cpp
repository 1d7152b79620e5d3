// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set: newer ones count ones in a step and draw four lanes in one vector.
// Integers alone, so all of them make the same masks.
#include "span_mask/span_mask_kernel.h"

#include <algorithm>
#include <cstring>
#include <optional>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace spanbert_ext::CPU_CAPABILITY {
namespace {

constexpr int64_t kBitWord = 64;  // positions of a word of a bit set
constexpr int kLanes = 4;         // draws made side by side
using Draws = PhiloxLanes<kLanes>;

// Bit kPlane of 64 bytes as one word, the first byte lowest.
template <int kPlane>
uint64_t pack_plane(const uint8_t* bytes) {
  uint64_t bits = 0;
#if defined(__SSE2__)
  for (int64_t j = 0; j < kBitWord; j += 16) {
    const __m128i sixteen = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes + j));
    bits |= static_cast<uint64_t>(_mm_movemask_epi8(_mm_slli_epi16(sixteen, 7 - kPlane))) << j;
  }
#else
  for (int64_t j = 0; j < kBitWord; j += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes + j, sizeof(eight));
    bits |= ((((eight >> kPlane) & 0x0101010101010101u) * 0x0102040810204080u) >> 56) << j;
  }
#endif
  return bits;
}

template <typename Element>
void mark_zeros(const void* data, int64_t first, int64_t size, uint8_t* codes) {
  const Element* elements = static_cast<const Element*>(data) + first;
  for (int64_t j = 0; j < size; ++j) codes[j] |= elements[j] == 0 ? kPadding : 0;
}

// An integer is zero exactly when its bytes are, so only the size of the mask's elements matters.
void mark_padding(const void* attention, int64_t bytes, int64_t first, int64_t size, uint8_t* codes) {
  switch (bytes) {
    case 1:
      return mark_zeros<uint8_t>(attention, first, size, codes);
    case 2:
      return mark_zeros<uint16_t>(attention, first, size, codes);
    case 4:
      return mark_zeros<uint32_t>(attention, first, size, codes);
    default:
      return mark_zeros<uint64_t>(attention, first, size, codes);
  }
}

// Kinds of ids that are in range. Eight at once: one store is read back as it was written, eight would not
// be.
template <typename Id>
void look_up_kinds(const uint8_t* table, const Id* ids, int64_t size, uint8_t* codes) {
  int64_t j = 0;
  for (; j + 8 <= size; j += 8) {
    uint64_t eight = 0;
    for (int k = 0; k < 8; ++k) eight |= static_cast<uint64_t>(table[ids[j + k]]) << (8 * k);
    std::memcpy(codes + j, &eight, sizeof(eight));
  }
  for (; j < size; ++j) codes[j] = table[ids[j]];
}

// Copies ids and returns whether all of them are in range.
template <typename Id>
bool copy_ids(const Id* ids, int64_t size, int64_t vocab_size, Id* copy) {
  const uint64_t largest = static_cast<uint64_t>(vocab_size) - 1;
  uint64_t signs = 0;
#pragma omp simd reduction(| : signs)
  for (int64_t j = 0; j < size; ++j) {
    signs |= outside_sign(ids[j], largest);
    copy[j] = ids[j];
  }
  return signs >> 63 == 0;
}

// Kinds of the positions first, first + 1, ... of all rows, whose ids are in range. Returns false for an
// explicit kind above 2.
template <typename Id>
bool read_kinds(const SpanBatch<Id>& batch, int64_t first, int64_t size, uint8_t* codes) {
  const Id* ids = batch.ids + first;
  if (batch.table != nullptr) {
    look_up_kinds(batch.table, ids, size, codes);
    return true;
  }
  const uint8_t* kinds = batch.kinds + first;
  uint8_t largest = 0;
  for (int64_t j = 0; j < size; ++j) {
    largest = std::max(largest, kinds[j]);
    codes[j] = kinds[j] | (ids[j] == batch.pad_token_id ? kPadding : uint8_t{0});
  }
  return largest <= kSpecial;
}

// The sum of hash_token over a bit word's tokens, none of them padding. Not inlined: its products need two
// registers by name.
template <typename Id>
[[gnu::noinline]] uint64_t hash_bit_word(const Id* ids, uint64_t rank) {
  uint64_t sum = 0;
#pragma GCC unroll 4
  for (int64_t j = 0; j < kBitWord; ++j) sum += hash_token(ids[j], rank + static_cast<uint64_t>(j));
  return sum;
}

struct RowFacts {
  int64_t normal_count = 0;  // neither special nor padding
  uint64_t hash = 0;
  bool bad = false;  // an id out of range, or an explicit kind above 2
};

// Reads the kinds of row b into its bit sets and, where no sample id is given, hashes its ids. The outputs
// of [L] are filled on the way, a bit word's tokens at a time: their cache misses hide behind the look-ups.
template <typename Id>
RowFacts read_row(const SpanBatch<Id>& batch, int64_t b, const RowBits& row, const RowOutput<Id>& out) {
  const int64_t begin = b * batch.length;
  RowFacts facts;
  uint64_t hash_sum = 0, token_count = 0;
  bool after_special = true;
  alignas(64) uint8_t codes[kBitWord];
  for (int64_t bit_word = 0; bit_word < batch.bit_words; ++bit_word) {
    const int64_t first = bit_word * kBitWord, left = batch.length - first,
                  size = left < kBitWord ? left : kBitWord;
    const Id* ids = batch.ids + begin + first;
    for (int64_t j = 0; j < size; ++j) out.labels[first + j] = kNoLabel;
    if (!copy_ids(ids, size, batch.vocab_size, out.masked_ids + first)) return {.bad = true};
    if (!read_kinds(batch, begin + first, size, codes)) return {.bad = true};
    if (batch.attention != nullptr) {
      mark_padding(batch.attention, batch.attention_bytes, begin + first, size, codes);
    }
    std::memset(codes + size, kPadding, kBitWord - size);
    const uint64_t special = pack_plane<1>(codes);
    row.special[bit_word] = special;
    row.barriers[bit_word] = find_barriers(special, pack_plane<0>(codes), &after_special);
    row.available[bit_word] = ~special;
    row.counts[bit_word] = static_cast<uint8_t>(count_ones(~special));
    facts.normal_count += row.counts[bit_word];
    if (batch.sample_ids == nullptr) {
      if (pack_plane<2>(codes) == 0) {
        hash_sum += hash_bit_word(ids, token_count);
        token_count += kBitWord;
      } else {
        for (int64_t j = 0; j < size; ++j) {
          const uint64_t keep = static_cast<uint64_t>(codes[j] >> 2) - 1;  // all ones unless padding
          hash_sum += hash_token(ids[j], token_count) & keep;
          token_count -= keep;
        }
      }
    }
  }
  facts.hash = mix64(hash_sum + token_count * kGolden);
  return facts;
}

// The row's proposals, drawn a few at a time.
class Proposals {
 public:
  Proposals(const SpanRules& rules, const RowRandom& random) : rules_(&rules), random_(random) {}

  Proposal operator()(int64_t d) {
    const int lane = static_cast<int>(d % kLanes);
    if (lane == 0) draws_ = draw_from<kLanes>(random_, Stream::kProposal, d);
    return make_proposal(*rules_, draws_, lane);
  }

 private:
  const SpanRules* rules_;
  RowRandom random_;
  Draws draws_;
};

// A row at work: read, then sampled, then written.
template <typename Id>
struct Row {
  RowBits bits;
  RowOutput<Id> out;
  RowRandom random;
  Candidates candidates;
  Sampling sampling;
};

// A proposal waits for what the one before it left available; those of other rows fill the waiting.
template <typename Id>
void sample_rows(const SpanRules& rules, Row<Id>* rows, int count) {
  std::optional<Proposals> proposals[kRowsAtOnce];
  bool more[kRowsAtOnce] = {};
  for (int r = 0; r < count; ++r) {
    proposals[r].emplace(rules, rows[r].random);
    more[r] = true;
  }
  for (bool any = true; any;) {
    any = false;
    for (int r = 0; r < kRowsAtOnce; ++r) {
      Row<Id>& row = rows[r];
      if (!more[r]) continue;
      more[r] = sample_span(rules, row.random, *proposals[r], row.bits, row.candidates, &row.sampling);
      any |= more[r];
    }
  }
}

// The tokens that become random ids, of any rows: a few at a time, since most spans are shorter than a draw
// is wide.
template <typename Id>
class RandomIds {
 public:
  RandomIds(const SpanRules& rules, uint64_t seed) : rules_(rules), seed_(seed) {}

  void add(const RowRandom& random, int64_t position, Id* id) {
    set_counter(random, Stream::kRandomId, position, count_, &counter_);
    waiting_[count_++] = id;
    if (count_ == kLanes) write();
  }

  void write() {
    const Draws draws = philox4x32(seed_, counter_);
    for (int lane = 0; lane < count_; ++lane)
      *waiting_[lane] = static_cast<Id>(random_id(rules_, draws, lane));
    count_ = 0;
  }

 private:
  const SpanRules& rules_;
  const uint64_t seed_;
  Draws counter_{};
  Id* waiting_[kLanes];
  int count_ = 0;
};

// Draws for each token of a span whether to replace it.
template <typename Id>
void replace_tokens(const SpanRules& rules, const RowRandom& random, int64_t begin, int64_t end,
                    RandomIds<Id>* random_ids, const RowOutput<Id>& out) {
  Draws choices;
  for (int64_t i = begin; i < end; ++i) {
    const int lane = static_cast<int>((i - begin) % kLanes);
    if (lane == 0) choices = draw_from<kLanes>(random, Stream::kReplacement, i);
    const Replacement choice = choose_replacement(rules, choices.word[0][lane]);
    if (choice == Replacement::kMask) out.masked_ids[i] = static_cast<Id>(rules.mask_token_id);
    if (choice == Replacement::kRandom) random_ids->add(random, i, out.masked_ids + i);
  }
}

// Writes the masked span [begin, end), a maximal run, as the row's masked tokens number `entry` and up. On
// entry masked_ids holds the row's ids.
template <typename Id>
void write_span(const SpanRules& rules, const RowRandom& random, const uint64_t* special, int64_t begin,
                int64_t end, int64_t entry, Replacement replacement, RandomIds<Id>* random_ids,
                const RowOutput<Id>& out) {
  const int64_t targets = count_targets(rules, special, begin, end);
  const bool to_mask = replacement == Replacement::kMask && !rules.replace_per_token;
  const Id mask_id = static_cast<Id>(rules.mask_token_id);
  for (int64_t i = begin; i < end; ++i, ++entry) {
    const Id id = out.masked_ids[i];
    write_entry(i, begin, end, targets, entry, out);
    out.labels[i] = id;
    out.masked_ids[i] = to_mask ? mask_id : id;
  }
  if (rules.replace_per_token) {
    replace_tokens(rules, random, begin, end, random_ids, out);
  } else if (replacement == Replacement::kRandom) {
    for (int64_t i = begin; i < end; ++i) random_ids->add(random, i, out.masked_ids + i);
  }
}

// Writes all spans of a sampled row, whose barriers are overwritten. On entry labels are kNoLabel throughout.
template <typename Id>
void write_row(const SpanRules& rules, const Row<Id>& row, int64_t bit_words, int64_t entry_count,
               RandomIds<Id>* random_ids) {
  const auto& [special, masked, available, counts] = row.bits;
  const int64_t masked_count = row.sampling.masked;
  for (int64_t bit_word = 0; bit_word < bit_words; ++bit_word)
    masked[bit_word] = ~(special[bit_word] | available[bit_word]);
  int64_t entry = 0, end = 0;
  while (entry < masked_count) {
    int64_t begins[kLanes] = {}, ends[kLanes];
    int count = 0;
    for (int64_t found = entry; count < kLanes && found < masked_count; ++count) {
      begins[count] = next_in(masked, end);
      ends[count] = end = next_outside(masked, begins[count]);
      found += end - begins[count];
    }
    const Draws draws = draw(row.random, Stream::kReplacement, begins);
    for (int span = 0; span < count; ++span) {
      const Replacement replacement = choose_replacement(rules, draws.word[0][span]);
      write_span(rules, row.random, special, begins[span], ends[span], entry, replacement, random_ids,
                 row.out);
      entry += ends[span] - begins[span];
    }
  }
  for (; entry < entry_count; ++entry) clear_entry(entry, row.out);
}

}  // namespace

template <typename Id>
int64_t mask_rows(const SpanBatch<Id>& batch, const SpanRules& rules, int64_t begin, int64_t end,
                  uint64_t* workspace) {
  RandomIds<Id> random_ids(rules, static_cast<uint64_t>(*batch.seed));
  Row<Id> rows[kRowsAtOnce];
  for (int r = 0; r < kRowsAtOnce; ++r) {
    rows[r].bits = row_bits(workspace + r * workspace_bit_words(batch.bit_words), batch.bit_words);
    std::memset(rows[r].bits.counts, 0, (batch.bit_words + 7) / 8 * 8);
  }
  for (int64_t b = begin; b < end; b += kRowsAtOnce) {
    const int count = static_cast<int>(end - b < kRowsAtOnce ? end - b : kRowsAtOnce);
    for (int r = 0; r < count; ++r) {
      Row<Id>& row = rows[r];
      row.out = row_output(batch, b + r);
      row.candidates = row_candidates(batch, b + r);
      const RowFacts facts = read_row(batch, b + r, row.bits, row.out);
      if (facts.bad) return b + r;
      row.random = row_random(batch, b + r, facts.hash);
      row.sampling = begin_sampling(rules, facts.normal_count, row.candidates);
    }
    sample_rows(rules, rows, count);
    for (int r = 0; r < count; ++r) write_row(rules, rows[r], batch.bit_words, batch.entries, &random_ids);
  }
  random_ids.write();
  return end;
}

template int64_t mask_rows(const SpanBatch<int32_t>&, const SpanRules&, int64_t, int64_t, uint64_t*);
template int64_t mask_rows(const SpanBatch<int64_t>&, const SpanRules&, int64_t, int64_t, uint64_t*);

}  // namespace spanbert_ext::CPU_CAPABILITY
