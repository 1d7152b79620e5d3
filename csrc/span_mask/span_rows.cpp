// Most of a row's time goes into dependent steps and mispredicted branches: code for AVX2 or AVX-512 is no
// faster.
#include "span_mask/span_rows.h"

#include <algorithm>
#include <cstring>

namespace spanbert_ext {
namespace {

constexpr int64_t kBlock = 64;              // positions per word of a bit set
constexpr uint8_t kPadding = 4 | kSpecial;  // set beside a token's kind

// Bit `plane` of 64 bytes as one word, the first byte lowest.
uint64_t pack_plane(const uint8_t* bytes, int plane) {
  uint64_t bits = 0;
  for (int64_t j = 0; j < kBlock; j += 8) {
    uint64_t eight;
    std::memcpy(&eight, bytes + j, sizeof(eight));
    bits |= ((((eight >> plane) & 0x0101010101010101u) * 0x0102040810204080u) >> 56) << j;
  }
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

struct RowFacts {
  int64_t normal_count = 0;  // neither special nor padding
  uint64_t hash = 0;
  bool bad = false;  // an id out of range, or an explicit kind above 2
};

// Reads the kinds of row b into its bit sets and, when nobody gave a sample id, hashes its ids. The outputs
// of [L] are filled on the way, a block at a time: their cache misses hide behind the look-ups.
template <typename Id>
RowFacts read_row(const SpanBatch<Id>& batch, int64_t b, const RowBits& row, const RowOutput<Id>& out) {
  const int64_t begin = b * batch.length;
  const uint8_t* table = batch.table;
  const uint64_t vocab_size = static_cast<uint64_t>(batch.vocab_size);
  const int64_t pad_token_id = batch.pad_token_id;
  RowFacts facts;
  uint64_t hash_sum = 0, token_count = 0;
  bool after_special = true, bad = false;
  alignas(64) uint8_t codes[kBlock];
  for (int64_t word = 0; word < batch.words; ++word) {
    const int64_t first = word * kBlock, left = batch.length - first, size = left < kBlock ? left : kBlock;
    const Id* ids = batch.ids + begin + first;
    std::copy_n(ids, size, out.masked_ids + first);
    for (int64_t j = 0; j < size; ++j) out.labels[first + j] = kNoLabel;
    for (int64_t j = 0; j < size; ++j) {
      const bool in_range = static_cast<uint64_t>(ids[j]) < vocab_size;
      bad |= !in_range;
      const uint8_t kind = table != nullptr ? table[in_range ? ids[j] : 0] : uint8_t{0};
      codes[j] = kind | (ids[j] == pad_token_id ? kPadding : uint8_t{0});
    }
    if (batch.kinds != nullptr) {
      const uint8_t* kinds = batch.kinds + begin + first;
      for (int64_t j = 0; j < size; ++j) {
        bad |= kinds[j] > kSpecial;
        codes[j] |= kinds[j];
      }
    }
    if (batch.attention != nullptr) {
      mark_padding(batch.attention, batch.attention_bytes, begin + first, size, codes);
    }
    std::memset(codes + size, kPadding, kBlock - size);
    const uint64_t special = pack_plane(codes, 1);
    row.special[word] = special;
    row.barriers[word] = find_barriers(special, pack_plane(codes, 0), &after_special);
    row.available[word] = ~special;
    row.counts[word] = static_cast<uint8_t>(count_ones(~special));
    facts.normal_count += row.counts[word];
    if (batch.sample_ids == nullptr) {
      if (pack_plane(codes, 2) == 0) {
        for (int64_t j = 0; j < kBlock; ++j) hash_sum += hash_token(ids[j], token_count + j);
        token_count += kBlock;
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
  facts.bad = bad;
  return facts;
}

}  // namespace

template <typename Id>
int64_t mask_rows(const SpanBatch<Id>& batch, const SpanRules& rules, int64_t begin, int64_t end,
                  uint64_t* workspace) {
  const RowBits row{workspace, workspace + batch.words, workspace + 2 * batch.words,
                    reinterpret_cast<uint8_t*>(workspace + 3 * batch.words)};
  std::memset(row.counts, 0, (batch.words + 7) / 8 * 8);
  for (int64_t b = begin; b < end; ++b) {
    const int64_t token = b * batch.length, slot = b * batch.slots;
    const RowOutput<Id> out{batch.out.masked_ids + token, batch.out.labels + token,
                            batch.out.masked_positions + slot, batch.out.left_boundary + slot,
                            batch.out.right_boundary + slot};
    const RowFacts facts = read_row(batch, b, row, out);
    if (facts.bad) return b;
    const uint64_t sample_id =
        batch.sample_ids != nullptr ? static_cast<uint64_t>(batch.sample_ids[b]) : facts.hash;
    const RowRandom random{batch.seed, sample_id,
                           static_cast<uint32_t>(batch.epochs[b * batch.epoch_stride])};
    Candidates candidates = batch.candidates;
    candidates.bounds += b * candidates.count * 2;
    const int64_t masked_count = sample_spans(rules, random, row, facts.normal_count, candidates);
    write_row(rules, random, row, batch.words, masked_count, batch.slots, row.barriers, out);
  }
  return end;
}

template int64_t mask_rows(const SpanBatch<int32_t>&, const SpanRules&, int64_t, int64_t, uint64_t*);
template int64_t mask_rows(const SpanBatch<int64_t>&, const SpanRules&, int64_t, int64_t, uint64_t*);

}  // namespace spanbert_ext
