// SPDX-License-Identifier: Apache-2.0
// The rules of span masking (SpanBERT 2.1, 2.2) for one row: proposals, merging, replacement, SBO neighbours.
// Host and device run this very code, so masks are equal bit for bit; they differ in which thread makes a draw,
// and when. Torch-free; no allocation, no exceptions, and no local array with an index of run time, which a GPU
// would keep in memory. A row is three bit sets of `words` bit words (64 bits each); the positions
// from L on count as special, so the row's end needs no rule of its own (`words` = L / 64 + 1, at least one
// such position exists).
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/philox.h"
#include "span_mask/bits.h"

namespace spanbert_ext {

constexpr int kMaxWordsLimit = 64;
constexpr int64_t kRowLimit = int64_t{1} << 28;  // a draw index leaves its high 4 bits to the stream
constexpr uint8_t kStarts = 1, kSpecial = 2;     // bits of a kind; without them a token continues a word
constexpr uint8_t kPadding = 4 | kSpecial;
constexpr int64_t kNoLabel = -100, kNoPosition = -1;

enum class Stream : uint32_t { kProposal = 0, kReplacement = 1, kRandomId = 2, kCandidate = 3 };

struct SpanRules {
  double ratio;
  uint64_t length_thresholds[kMaxWordsLimit];  // [max_words - 1] of 2^32, ascending
  int max_words;
  // Of 2^32: below the first [MASK], below the second random, else kept.
  uint64_t mask_threshold, random_threshold;
  uint64_t candidate_threshold;  // of 2^32: a draw below it masks a candidate while one is open
  int64_t position_slots, mask_token_id;
  bool replace_per_token, fill_after_candidates;
  const int64_t* random_ids;  // [random_count]
  int64_t random_count;
};

// What a row's draws depend on, beside stream and draw index.
struct RowRandom {
  uint64_t seed, sample_id;
  uint32_t epoch;
};

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE void set_counter(const RowRandom& random, Stream stream, int64_t index, int lane,
                                          PhiloxLanes<kLanes>* counter) {
  counter->word[0][lane] = static_cast<uint32_t>(random.sample_id);
  counter->word[1][lane] = static_cast<uint32_t>(random.sample_id >> 32);
  counter->word[2][lane] = random.epoch;
  counter->word[3][lane] = (static_cast<uint32_t>(stream) << 28) | static_cast<uint32_t>(index);
}

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE PhiloxLanes<kLanes> draw(const RowRandom& random, Stream stream,
                                                  const int64_t (&indices)[kLanes]) {
  PhiloxLanes<kLanes> counter;
  for (int lane = 0; lane < kLanes; ++lane) set_counter(random, stream, indices[lane], lane, &counter);
  return philox4x32(random.seed, counter);
}

// Draw indices first, first + 1, ...
template <int kLanes>
SPANBERT_EXT_HOST_DEVICE PhiloxLanes<kLanes> draw_from(const RowRandom& random, Stream stream,
                                                       int64_t first) {
  int64_t indices[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) indices[lane] = first + lane;
  return draw(random, stream, indices);
}

// A draw of the proposal stream: a length in words, and bits that choose an anchor or a candidate.
struct Proposal {
  uint64_t bits;
  int words;
};

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE Proposal make_proposal(const SpanRules& rules, const PhiloxLanes<kLanes>& draws,
                                                int lane) {
  int words = 1;
  for (int k = 0; k < rules.max_words - 1; ++k) {
    words += rules.length_thresholds[k] <= draws.word[0][lane] ? 1 : 0;
  }
  return {(draws.word[2][lane] << 32) | draws.word[1][lane], words};
}

struct RowBits {
  uint64_t* special;    // [words]
  uint64_t* barriers;   // [words] special, or the first token of a word
  uint64_t* available;  // [words] neither special nor masked
  uint8_t* counts;      // [words, padded with 0 to a multiple of 8] ones of each word of `available`
};

struct Candidates {
  bool given;             // if not, every span is geometric; an empty list is another thing
  const int64_t* bounds;  // [count, 2] half-open token spans, padded with -1 (or anything else that is none)
  int64_t count, length;  // length: L, where a span must end
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
  return fold_product(static_cast<uint64_t>(id) + kGolden, (2 * rank + 1) * kGolden);
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
  for (int64_t bit_word = begin >> 6; bit_word * 64 < end && masked < limit; ++bit_word) {
    uint64_t bits = row.available[bit_word];
    if (bit_word == begin >> 6) bits &= ~uint64_t{0} << (begin & 63);
    if (bit_word == (end - 1) >> 6) bits &= ~uint64_t{0} >> (63 - ((end - 1) & 63));
    int count = count_ones(bits);
    if (count > limit - masked) {
      count = static_cast<int>(limit - masked);
      bits &= (uint64_t{1} << select_one(bits, static_cast<uint32_t>(count))) - 1;
    }
    row.available[bit_word] &= ~bits;
    row.counts[bit_word] = static_cast<uint8_t>(row.counts[bit_word] - count);
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
  // No branch: a random rank would mispredict it.
  int64_t bit_word = first;
  uint64_t sum = 0, before = 0;
  for (int i = 0; i < 8; ++i) {
    sum += row.counts[first + i];
    const uint64_t passed = sum <= rank ? ~uint64_t{0} : 0;
    bit_word += passed & 1;
    before += row.counts[first + i] & passed;
  }
  return bit_word * 64 + select_one(row.available[bit_word], static_cast<uint32_t>(rank - before));
}

// Draws a candidate whose start is available. Returns false when none is left.
SPANBERT_EXT_HOST_DEVICE bool propose_candidate(const RowBits& row, const Candidates& candidates,
                                                uint64_t bits, int64_t* begin, int64_t* end) {
  auto is_open = [&](int64_t c) {
    const int64_t start = candidates.bounds[2 * c], stop = candidates.bounds[2 * c + 1];
    return 0 <= start && start < stop && stop <= candidates.length && has_bit(row.available, start);
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

// Where `words` words end that begin at `begin`: at the barrier of that number, or at a special before it.
SPANBERT_EXT_HOST_DEVICE int64_t end_of_words(const RowBits& row, int64_t begin, int words) {
  int64_t bit_word = (begin + 1) >> 6;
  uint64_t from = ~uint64_t{0} << ((begin + 1) & 63);
  for (;; ++bit_word, from = ~uint64_t{0}) {
    const uint64_t special = row.special[bit_word] & from;
    const uint64_t barriers =
        row.barriers[bit_word] & from & (special ^ (special - 1));  // none after a special
    const int count = count_ones(barriers);
    if (count >= words) return bit_word * 64 + select_one(barriers, static_cast<uint32_t>(words - 1));
    if (special != 0) return bit_word * 64 + lowest_one(special);
    words -= count;
  }
}

// A geometric number of whole words from the word of a uniform available anchor on.
SPANBERT_EXT_HOST_DEVICE void propose_words(const RowBits& row, int words, uint64_t anchor_rank,
                                            int64_t* begin, int64_t* end) {
  *begin = previous_in(row.barriers, select_available(row, anchor_rank));
  *end = end_of_words(row, *begin, words);
}

// How far the sampling of a row is. `normal_count`: the row's non-special positions.
struct Sampling {
  int64_t normal_count, budget, masked, proposals;
  bool use_candidates;
};

SPANBERT_EXT_HOST_DEVICE Sampling begin_sampling(const SpanRules& rules, int64_t normal_count,
                                                 const Candidates& candidates) {
  return {normal_count, token_budget(rules.ratio, normal_count), 0, 0, candidates.given};
}

// Whether draw d masks a candidate while one is open. Without a threshold to compare with, nothing is drawn.
SPANBERT_EXT_HOST_DEVICE bool takes_candidate(const SpanRules& rules, const RowRandom& random, int64_t d) {
  if (rules.candidate_threshold > kLow32) return true;
  return draw_from<1>(random, Stream::kCandidate, d).word[0][0] < rules.candidate_threshold;
}

// Masks one more proposal. `proposal(d)` is the Proposal of draw index d; d ascends. Returns
// whether there was anything to do: false when the budget is met, or candidates are all used up and nothing
// is to follow.
template <typename Proposals>
SPANBERT_EXT_HOST_DEVICE bool sample_span(const SpanRules& rules, const RowRandom& random,
                                          Proposals& proposal, const RowBits& row,
                                          const Candidates& candidates, Sampling* sampling) {
  if (sampling->masked >= sampling->budget) return false;
  const int64_t d = sampling->proposals++;
  const Proposal drawn = proposal(d);
  int64_t begin = 0, end = 0;
  bool from_candidate = false;
  if (sampling->use_candidates) {
    from_candidate = takes_candidate(rules, random, d);
    // Where the row ends with its candidates, a draw that masks none of them has to know that one is left.
    const bool needs_one = from_candidate || !rules.fill_after_candidates;
    if (needs_one && !propose_candidate(row, candidates, drawn.bits, &begin, &end)) {
      if (!rules.fill_after_candidates) return false;
      sampling->use_candidates = from_candidate = false;  // masking never reopens a candidate
    }
  }
  if (!from_candidate) {
    const uint64_t rank =
        multiply_high(drawn.bits, static_cast<uint64_t>(sampling->normal_count - sampling->masked));
    propose_words(row, drawn.words, rank, &begin, &end);
  }
  sampling->masked += mask_range(row, begin, end, sampling->budget - sampling->masked);
  return true;
}

enum class Replacement { kMask, kRandom, kKeep };

SPANBERT_EXT_HOST_DEVICE Replacement choose_replacement(const SpanRules& rules, uint64_t draw) {
  if (draw < rules.mask_threshold) return Replacement::kMask;
  return draw < rules.random_threshold ? Replacement::kRandom : Replacement::kKeep;
}

template <int kLanes>
SPANBERT_EXT_HOST_DEVICE int64_t random_id(const SpanRules& rules, const PhiloxLanes<kLanes>& draws,
                                           int lane) {
  const uint64_t bits = (draws.word[1][lane] << 32) | draws.word[0][lane];
  return rules.random_ids[multiply_high(bits, static_cast<uint64_t>(rules.random_count))];
}

// How many tokens of the masked span [begin, end), a maximal run, have an SBO target: its first ones.
SPANBERT_EXT_HOST_DEVICE int64_t count_targets(const SpanRules& rules, const uint64_t* special, int64_t begin,
                                               int64_t end) {
  const bool has_neighbours = begin > 0 && !has_bit(special, begin - 1) && !has_bit(special, end);
  return has_neighbours ? rules.position_slots : 0;
}

// One row of every output.
template <typename Id>
struct RowOutput {
  Id* masked_ids;             // [L]
  int64_t* labels;            // [L]
  int64_t* masked_positions;  // [K]
  int64_t* left_boundary;     // [K]
  int64_t* right_boundary;    // [K]
};

// Token i of the masked span [begin, end) is number `entry` of the row's masked tokens.
template <typename Id>
SPANBERT_EXT_HOST_DEVICE void write_entry(int64_t i, int64_t begin, int64_t end, int64_t targets,
                                          int64_t entry, const RowOutput<Id>& out) {
  out.masked_positions[entry] = i;
  out.left_boundary[entry] = i - begin < targets ? begin - 1 : kNoPosition;
  out.right_boundary[entry] = i - begin < targets ? end : kNoPosition;
}

template <typename Id>
SPANBERT_EXT_HOST_DEVICE void clear_entry(int64_t entry, const RowOutput<Id>& out) {
  out.masked_positions[entry] = out.left_boundary[entry] = out.right_boundary[entry] = kNoPosition;
}

}  // namespace spanbert_ext
