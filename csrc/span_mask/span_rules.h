// The rules of span masking (SpanBERT 2.1, 2.2) for one row: proposals, merging, replacement, SBO neighbours.
// Host and device run this very code, so masks are equal bit for bit. Torch-free; no allocation, no
// exceptions: the caller passes a workspace. A row is three bit sets of `words` 64-bit words; the positions
// from L on count as special, so the row's end needs no rule of its own (`words` = L / 64 + 1, at least one
// such position exists).
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/philox.h"
#include "span_mask/bits.h"

namespace spanbert_ext {

constexpr int kMaxWordsLimit = 64;
constexpr int64_t kRowLimit = int64_t{1} << 28;  // a block number keeps its high 4 bits for the stream
constexpr uint8_t kContinues = 0, kStarts = 1, kSpecial = 2;
constexpr int64_t kNoLabel = -100, kNoPosition = -1;

enum class Stream : uint32_t { kProposal = 0, kReplacement = 1, kRandomId = 2 };

struct SpanRules {
  double ratio;
  uint64_t length_thresholds[kMaxWordsLimit];  // [max_words - 1] of 2^32, ascending
  int max_words;
  uint64_t mask_threshold,
      random_threshold;  // of 2^32: below the first [MASK], below the second random, else kept
  int64_t position_slots, mask_token_id;
  bool replace_per_token, fill_after_candidates;
  const int64_t* random_ids;  // [random_count]
  int64_t random_count;
};

// What a row's draws depend on, beside stream and block.
struct RowRandom {
  uint64_t seed, sample_id;
  uint32_t epoch;
};

SPANBERT_EXT_HOST_DEVICE PhiloxLanes draw(const RowRandom& random, Stream stream,
                                          const int64_t (&blocks)[kPhiloxLanes]) {
  PhiloxLanes counter;
  for (int lane = 0; lane < kPhiloxLanes; ++lane) {
    counter.word[0][lane] = static_cast<uint32_t>(random.sample_id);
    counter.word[1][lane] = static_cast<uint32_t>(random.sample_id >> 32);
    counter.word[2][lane] = random.epoch;
    counter.word[3][lane] = (static_cast<uint32_t>(stream) << 28) | static_cast<uint32_t>(blocks[lane]);
  }
  return philox4x32(random.seed, counter);
}

// Blocks first, first + 1, ...
SPANBERT_EXT_HOST_DEVICE PhiloxLanes draw_from(const RowRandom& random, Stream stream, int64_t first) {
  int64_t blocks[kPhiloxLanes];
  for (int lane = 0; lane < kPhiloxLanes; ++lane) blocks[lane] = first + lane;
  return draw(random, stream, blocks);
}

struct RowBits {
  uint64_t* special;    // [words]
  uint64_t* barriers;   // [words] special, or the first token of a word
  uint64_t* available;  // [words] neither special nor masked
  uint8_t* counts;      // [words, padded with 0 to a multiple of 8] ones of each word of `available`
};

struct Candidates {
  bool given;             // if not, every span is geometric; an empty list is another thing
  const int64_t* bounds;  // [count, 2] half-open token spans, padded with -1
  int64_t count;
};

// ceil(ratio * n) as one IEEE multiply; n <= 2^28, so the conversion back is exact.
SPANBERT_EXT_HOST_DEVICE int64_t token_budget(double ratio, int64_t n) {
  const double wanted = ratio * static_cast<double>(n);
  const int64_t whole = static_cast<int64_t>(wanted);
  return whole + (static_cast<double>(whole) < wanted ? 1 : 0);
}

SPANBERT_EXT_HOST_DEVICE uint64_t mix64(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A row's default sample id is mix64 of (the sum of hash_token over its non-padding tokens + their number
// times kGolden): a sum, so that threads can share it; by rank, so that neither side nor amount of padding
// matters.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
SPANBERT_EXT_HOST_DEVICE uint64_t hash_token(int64_t id, uint64_t rank) {
  const uint64_t a = static_cast<uint64_t>(id) + kGolden, b = (2 * rank + 1) * kGolden;
  return (a * b) ^ multiply_high(a, b);
}

// One word of `barriers` from raw kinds, where a continuation with nothing to continue starts a word.
// `after_special`: whether this word's first position follows a special or begins the row; updated.
SPANBERT_EXT_HOST_DEVICE uint64_t find_barriers(uint64_t special, uint64_t starts, bool* after_special) {
  const uint64_t barriers = special | starts | (special << 1) | (*after_special ? 1 : 0);
  *after_special = special >> 63;
  return barriers;
}

// Masks the available positions of [begin, end), the first `limit` of them. Returns how many.
SPANBERT_EXT_HOST_DEVICE int64_t mask_range(const RowBits& row, int64_t begin, int64_t end, int64_t limit) {
  int64_t masked = 0;
  for (int64_t word = begin >> 6; word * 64 < end && masked < limit; ++word) {
    uint64_t bits = row.available[word];
    if (word == begin >> 6) bits &= ~uint64_t{0} << (begin & 63);
    if (word == (end - 1) >> 6) bits &= ~uint64_t{0} >> (63 - ((end - 1) & 63));
    int count = count_ones(bits);
    if (count > limit - masked) {
      count = static_cast<int>(limit - masked);
      bits &= (uint64_t{1} << select_one(bits, static_cast<uint32_t>(count))) - 1;
    }
    row.available[word] &= ~bits;
    row.counts[word] = static_cast<uint8_t>(row.counts[word] - count);
    masked += count;
  }
  return masked;
}

SPANBERT_EXT_HOST_DEVICE int64_t select_available(const RowBits& row, uint64_t rank) {
  int64_t first = 0;  // of the eight words that hold it
  for (;; first += 8) {
    uint64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += row.counts[first + i];
    if (rank < sum) break;
    rank -= sum;
  }
  int64_t word = first;
  uint64_t sum = 0, before = 0;
  for (int i = 0; i < 8; ++i) {
    sum += row.counts[first + i];
    word += sum <= rank ? 1 : 0;
    before = sum <= rank ? sum : before;
  }
  return word * 64 + select_one(row.available[word], static_cast<uint32_t>(rank - before));
}

// Draws a candidate whose start is available. Returns false when none is left.
SPANBERT_EXT_HOST_DEVICE bool propose_candidate(const RowBits& row, const Candidates& candidates,
                                                uint64_t bits, int64_t* begin, int64_t* end) {
  auto is_open = [&](int64_t c) {
    const int64_t start = candidates.bounds[2 * c];
    return start >= 0 && has_bit(row.available, start);
  };
  uint64_t open = 0;
  for (int64_t c = 0; c < candidates.count; ++c) open += is_open(c) ? 1 : 0;
  if (open == 0) return false;
  uint64_t rank = multiply_high(bits, open);
  int64_t chosen = 0;
  for (;; ++chosen) {
    if (is_open(chosen) && rank-- == 0) break;
  }
  *begin = candidates.bounds[2 * chosen];
  *end = candidates.bounds[2 * chosen + 1];
  const int64_t barrier = next_in(row.special, *begin);
  if (barrier < *end) *end = barrier;
  return true;
}

// A geometric number of whole words from the word of a uniform available anchor on.
SPANBERT_EXT_HOST_DEVICE void propose_words(const SpanRules& rules, const RowBits& row, uint32_t length_word,
                                            uint64_t anchor_rank, int64_t* begin, int64_t* end) {
  int length = 1;
  for (int k = 0; k < rules.max_words - 1; ++k) length += rules.length_thresholds[k] <= length_word ? 1 : 0;
  *begin = previous_in(row.barriers, select_available(row, anchor_rank));
  *end = *begin;
  do {
    *end = next_in(row.barriers, *end + 1);
  } while (--length > 0 && !has_bit(row.special, *end));
}

// Masks tokens until the budget is met. `normal_count`: the row's non-special positions. Returns the number
// masked.
SPANBERT_EXT_HOST_DEVICE int64_t sample_spans(const SpanRules& rules, const RowRandom& random,
                                              const RowBits& row, int64_t normal_count,
                                              const Candidates& candidates) {
  const int64_t budget = token_budget(rules.ratio, normal_count);
  bool use_candidates = candidates.given;
  int64_t masked = 0;
  PhiloxLanes draws;
  for (int64_t proposal = 0; masked < budget; ++proposal) {
    const int lane = static_cast<int>(proposal % kPhiloxLanes);
    if (lane == 0) draws = draw_from(random, Stream::kProposal, proposal);
    const uint64_t bits = (static_cast<uint64_t>(draws.word[2][lane]) << 32) | draws.word[1][lane];
    int64_t begin = 0, end = 0;
    if (use_candidates && !propose_candidate(row, candidates, bits, &begin, &end)) {
      if (!rules.fill_after_candidates) break;
      use_candidates = false;  // masking never reopens a candidate
    }
    if (!use_candidates) {
      const uint64_t rank = multiply_high(bits, static_cast<uint64_t>(normal_count - masked));
      propose_words(rules, row, draws.word[0][lane], rank, &begin, &end);
    }
    masked += mask_range(row, begin, end, budget - masked);
  }
  return masked;
}

enum class Replacement { kMask, kRandom, kKeep };

SPANBERT_EXT_HOST_DEVICE Replacement choose_replacement(const SpanRules& rules, uint32_t word) {
  if (word < rules.mask_threshold) return Replacement::kMask;
  return word < rules.random_threshold ? Replacement::kRandom : Replacement::kKeep;
}

// One row of every output. On entry masked_ids holds the row's ids and labels kNoLabel throughout.
template <typename Id>
struct RowOutput {
  Id* masked_ids;             // [L]
  int64_t* labels;            // [L]
  int64_t* masked_positions;  // [K]
  int64_t* left_boundary;     // [K]
  int64_t* right_boundary;    // [K]
};

// Draws random ids (and, per token, whether to) for the tokens of a span.
template <typename Id>
SPANBERT_EXT_HOST_DEVICE void randomise_span(const SpanRules& rules, const RowRandom& random, int64_t begin,
                                             int64_t end, const RowOutput<Id>& out) {
  PhiloxLanes choices, ids;
  for (int64_t i = begin; i < end; ++i) {
    const int lane = static_cast<int>((i - begin) % kPhiloxLanes);
    if (lane == 0) {
      ids = draw_from(random, Stream::kRandomId, i);
      if (rules.replace_per_token) choices = draw_from(random, Stream::kReplacement, i);
    }
    const Replacement choice =
        rules.replace_per_token ? choose_replacement(rules, choices.word[0][lane]) : Replacement::kRandom;
    if (choice == Replacement::kMask) out.masked_ids[i] = static_cast<Id>(rules.mask_token_id);
    if (choice == Replacement::kRandom) {
      const uint64_t bits = (static_cast<uint64_t>(ids.word[1][lane]) << 32) | ids.word[0][lane];
      const uint64_t index = multiply_high(bits, static_cast<uint64_t>(rules.random_count));
      out.masked_ids[i] = static_cast<Id>(rules.random_ids[index]);
    }
  }
}

// Writes the masked span [begin, end), a maximal run, as the row's masked tokens number `slot` and up.
template <typename Id>
SPANBERT_EXT_HOST_DEVICE void write_span(const SpanRules& rules, const RowRandom& random,
                                         const uint64_t* special, int64_t begin, int64_t end, int64_t slot,
                                         Replacement replacement, const RowOutput<Id>& out) {
  const bool has_neighbours = begin > 0 && !has_bit(special, begin - 1) && !has_bit(special, end);
  const int64_t slots = has_neighbours ? rules.position_slots : 0;
  const bool to_mask = replacement == Replacement::kMask && !rules.replace_per_token;
  const Id mask_id = static_cast<Id>(rules.mask_token_id);
  for (int64_t i = begin; i < end; ++i, ++slot) {
    const Id id = out.masked_ids[i];
    out.masked_positions[slot] = i;
    out.left_boundary[slot] = i - begin < slots ? begin - 1 : kNoPosition;
    out.right_boundary[slot] = i - begin < slots ? end : kNoPosition;
    out.labels[i] = id;
    out.masked_ids[i] = to_mask ? mask_id : id;
  }
  if (replacement == Replacement::kRandom || rules.replace_per_token) {
    randomise_span(rules, random, begin, end, out);
  }
}

// Writes all spans of a sampled row. `masked` is workspace [words]; the row's barriers may be overwritten.
template <typename Id>
SPANBERT_EXT_HOST_DEVICE void write_row(const SpanRules& rules, const RowRandom& random, const RowBits& row,
                                        int64_t words, int64_t masked_count, int64_t slot_count,
                                        uint64_t* masked, const RowOutput<Id>& out) {
  for (int64_t word = 0; word < words; ++word) masked[word] = ~(row.special[word] | row.available[word]);
  int64_t slot = 0, end = 0;
  while (slot < masked_count) {
    int64_t begins[kPhiloxLanes] = {}, ends[kPhiloxLanes];
    int count = 0;
    for (int64_t found = slot; count < kPhiloxLanes && found < masked_count; ++count) {
      begins[count] = next_in(masked, end);
      ends[count] = end = next_outside(masked, begins[count]);
      found += end - begins[count];
    }
    const PhiloxLanes draws = draw(random, Stream::kReplacement, begins);
    for (int span = 0; span < count; ++span) {
      const Replacement replacement = choose_replacement(rules, draws.word[0][span]);
      write_span(rules, random, row.special, begins[span], ends[span], slot, replacement, out);
      slot += ends[span] - begins[span];
    }
  }
  for (; slot < slot_count; ++slot) {
    out.masked_positions[slot] = out.left_boundary[slot] = out.right_boundary[slot] = kNoPosition;
  }
}

}  // namespace spanbert_ext
