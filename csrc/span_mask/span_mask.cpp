#include "span_mask/span_mask.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "span_mask/span_rows.h"

namespace spanbert_ext {
namespace {

constexpr double kTwoTo32 = 4294967296.0;
constexpr int64_t kTokensPerTask = 16384;

// Returns the first row that could not be read, or B.
template <typename Id>
int64_t mask_batch(const SpanBatch<Id>& batch, const SpanRules& rules) {
  std::atomic<int64_t> first_bad{batch.rows};
  const int64_t grain = std::max<int64_t>(1, kTokensPerTask / std::max<int64_t>(1, batch.length));
  at::parallel_for(0, batch.rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<uint64_t> workspace(workspace_words(batch.words));
    const int64_t stopped_at = mask_rows(batch, rules, begin, end, workspace.data());
    int64_t known = first_bad.load();
    while (stopped_at < end && stopped_at < known && !first_bad.compare_exchange_weak(known, stopped_at)) {
    }
  });
  return first_bad.load();
}

template <typename Id>
void raise_bad_row(const SpanBatch<Id>& batch, int64_t b) {
  for (int64_t position = 0; position < batch.length; ++position) {
    const int64_t id = batch.ids[b * batch.length + position];
    TORCH_CHECK_INDEX(id >= 0 && id < batch.vocab_size, "span_mask: input_ids[", b, ", ", position, "] is ",
                      id, ", outside the vocabulary [0, ",
                      batch.vocab_size == std::numeric_limits<int64_t>::max()
                          ? std::string("2^63")
                          : std::to_string(batch.vocab_size),
                      "). Were the ids made by another tokenizer than the kinds?");
    if (batch.kinds == nullptr) continue;
    const int kind = batch.kinds[b * batch.length + position];
    TORCH_CHECK_VALUE(kind <= kSpecial, "span_mask: kinds[", b, ", ", position, "] is ", kind,
                      "; expected 0 (continues a word), 1 (starts a word) or 2 (special)");
  }
}

// --- Checks and rules ---

void check_type(const at::Tensor& tensor, const char* name, at::ScalarType expected) {
  TORCH_CHECK_TYPE(tensor.scalar_type() == expected, "span_mask: ", name, " is ", tensor.scalar_type(),
                   "; expected ", expected);
}

void check_shape(const at::Tensor& tensor, const char* name, at::IntArrayRef expected, const char* meaning) {
  TORCH_CHECK_VALUE(tensor.sizes() == expected, "span_mask: ", name, " has shape ", tensor.sizes(),
                    "; expected ", meaning, " = ", expected);
}

void check_share(double value, const char* name) {
  TORCH_CHECK_VALUE(value >= 0 && value <= 1, "span_mask: ", name, " is ", value,
                    "; expected a number in [0, 1]");
}

// P(length <= k) of the geometric distribution truncated to 1..max_words, as floor(P * 2^32).
void fill_length_thresholds(double p, int max_words, uint64_t* thresholds) {
  // volatile: no compiler may fuse a product into a sum, so that every platform rounds alike.
  volatile double cumulative[kMaxWordsLimit];
  volatile double weight = p;
  cumulative[0] = p;
  for (int k = 1; k < max_words; ++k) {
    weight = weight * (1.0 - p);
    cumulative[k] = cumulative[k - 1] + weight;
  }
  for (int k = 0; k < max_words; ++k) {
    thresholds[k] = static_cast<uint64_t>(cumulative[k] / cumulative[max_words - 1] * kTwoTo32);
  }
}

void check_vocabulary(const at::Tensor& kinds, const at::Tensor& random_ids, int64_t vocab_size,
                      int64_t mask_token_id) {
  TORCH_CHECK_INDEX(mask_token_id >= 0 && mask_token_id < vocab_size, "span_mask: mask_token_id is ",
                    mask_token_id, ", outside the vocabulary [0, ", vocab_size, ")");
  const int64_t* ids = random_ids.const_data_ptr<int64_t>();
  bool ids_good = true;
  for (int64_t i = 0; i < random_ids.numel(); ++i) {
    ids_good &= static_cast<uint64_t>(ids[i]) < static_cast<uint64_t>(vocab_size);
  }
  for (int64_t i = 0; !ids_good && i < random_ids.numel(); ++i) {
    TORCH_CHECK_INDEX(ids[i] >= 0 && ids[i] < vocab_size, "span_mask: random_ids[", i, "] is ", ids[i],
                      ", outside the vocabulary [0, ", vocab_size, ")");
  }
  if (kinds.dim() != 1) return;
  const uint8_t* table = kinds.const_data_ptr<uint8_t>();
  uint8_t largest = 0;
  for (int64_t id = 0; id < vocab_size; ++id) largest = std::max(largest, table[id]);
  for (int64_t id = 0; largest > kSpecial && id < vocab_size; ++id) {
    TORCH_CHECK_VALUE(table[id] <= kSpecial, "span_mask: kinds[", id, "] is ", static_cast<int>(table[id]),
                      "; expected 0 (continues a word), 1 (starts a word) or 2 (special)");
  }
}

void check_candidates(const at::Tensor& candidates, int64_t length) {
  const int64_t* bounds = candidates.const_data_ptr<int64_t>();
  const int64_t per_row = candidates.size(1);
  for (int64_t i = 0; i < candidates.size(0) * per_row; ++i) {
    const int64_t start = bounds[2 * i], end = bounds[2 * i + 1];
    const bool pad = start == -1 && end == -1;
    TORCH_CHECK_INDEX(pad || (0 <= start && start < end && end <= length), "span_mask: candidates[",
                      i / per_row, ", ", i % per_row, "] is [", start, ", ", end,
                      "); expected 0 <= start < end <= L = ", length, ", or -1, -1 as padding");
  }
}

}  // namespace

SpanMaskTensors span_mask_cpu(const at::Tensor& input_ids, const at::Tensor& kinds,
                              const at::Tensor& random_ids, const at::Tensor& seed, const at::Tensor& epoch,
                              const std::optional<at::Tensor>& attention_mask,
                              const std::optional<at::Tensor>& sample_ids,
                              const std::optional<at::Tensor>& candidates, std::optional<int64_t> vocab_size,
                              int64_t mask_token_id, int64_t pad_token_id, double ratio, double p,
                              int64_t max_words, int64_t position_slots, double mask_share,
                              double random_share, bool replace_per_token, bool fill_after_candidates) {
  TORCH_CHECK_TYPE(input_ids.scalar_type() == at::kLong || input_ids.scalar_type() == at::kInt,
                   "span_mask: input_ids is ", input_ids.scalar_type(), "; expected int64 or int32");
  TORCH_CHECK_VALUE(input_ids.dim() == 2, "span_mask: input_ids has shape ", input_ids.sizes(),
                    "; expected [B, L]");
  const int64_t rows = input_ids.size(0), length = input_ids.size(1);
  TORCH_CHECK_VALUE(length < kRowLimit, "span_mask: input_ids has rows of ", length,
                    " tokens; expected fewer than 2^28");
  check_type(kinds, "kinds", at::kByte);
  TORCH_CHECK_VALUE(kinds.dim() == 1 || kinds.sizes() == input_ids.sizes(), "span_mask: kinds has shape ",
                    kinds.sizes(), "; expected a table [V] or explicit kinds [B, L] = ", input_ids.sizes());
  check_type(random_ids, "random_ids", at::kLong);
  TORCH_CHECK_VALUE(random_ids.dim() == 1, "span_mask: random_ids has shape ", random_ids.sizes(),
                    "; expected [R]");
  check_type(seed, "seed", at::kLong);
  check_shape(seed, "seed", {}, "no dimension");
  check_type(epoch, "epoch", at::kLong);
  if (epoch.dim() != 0) check_shape(epoch, "epoch", {rows}, "no dimension, or [B]");
  if (attention_mask) {
    TORCH_CHECK_TYPE(at::isIntegralType(attention_mask->scalar_type(), /*includeBool=*/true),
                     "span_mask: attention_mask is ", attention_mask->scalar_type(),
                     "; expected bool or an integer type");
    check_shape(*attention_mask, "attention_mask", input_ids.sizes(), "[B, L]");
  }
  if (sample_ids) {
    check_type(*sample_ids, "sample_ids", at::kLong);
    check_shape(*sample_ids, "sample_ids", {rows}, "[B]");
  }
  if (candidates) {
    check_type(*candidates, "candidates", at::kLong);
    TORCH_CHECK_VALUE(candidates->dim() == 3 && candidates->size(0) == rows && candidates->size(2) == 2,
                      "span_mask: candidates has shape ", candidates->sizes(),
                      "; expected [B, M, 2] with B = ", rows);
  }
  check_share(ratio, "ratio");
  TORCH_CHECK_VALUE(p > 0 && p <= 1, "span_mask: p is ", p, "; expected a number in (0, 1]");
  TORCH_CHECK_VALUE(max_words >= 1 && max_words <= kMaxWordsLimit, "span_mask: max_words is ", max_words,
                    "; expected 1 to ", kMaxWordsLimit);
  TORCH_CHECK_VALUE(position_slots >= 0, "span_mask: position_slots is ", position_slots,
                    "; expected 0 or more");
  check_share(mask_share, "mask_share");
  check_share(random_share, "random_share");
  TORCH_CHECK_VALUE(mask_share + random_share <= 1, "span_mask: mask_share + random_share is ",
                    mask_share + random_share, "; expected at most 1");

  const bool has_table = kinds.dim() == 1;
  TORCH_CHECK_VALUE(!has_table || kinds.size(0) > 0,
                    "span_mask: kinds has shape [0]; expected one kind for each id");
  TORCH_CHECK_VALUE(!has_table || !vocab_size || *vocab_size == kinds.size(0), "span_mask: vocab_size is ",
                    vocab_size.value_or(0), " but kinds has shape ", kinds.sizes(),
                    "; expected [vocab_size]");
  // Without a table any id that fits the ids' own type is one.
  const int64_t all_ids =
      input_ids.scalar_type() == at::kInt ? int64_t{1} << 31 : std::numeric_limits<int64_t>::max();
  const int64_t vocabulary = has_table ? kinds.size(0) : std::min(vocab_size.value_or(all_ids), all_ids);

  SpanRules rules{};
  rules.ratio = ratio;
  rules.max_words = static_cast<int>(max_words);
  fill_length_thresholds(p, rules.max_words, rules.length_thresholds);
  rules.mask_threshold = static_cast<uint64_t>(mask_share * kTwoTo32);
  rules.random_threshold = static_cast<uint64_t>((mask_share + random_share) * kTwoTo32);
  rules.position_slots = position_slots;
  rules.mask_token_id = mask_token_id;
  rules.replace_per_token = replace_per_token;
  rules.fill_after_candidates = fill_after_candidates;
  const auto pool = random_ids.expect_contiguous();
  rules.random_ids = pool->const_data_ptr<int64_t>();
  rules.random_count = pool->numel();
  TORCH_CHECK_VALUE(rules.random_count > 0 || rules.random_threshold <= rules.mask_threshold,
                    "span_mask: random_ids is empty but random_share is ", random_share,
                    "; expected ids to draw from, or random_share 0");

  const auto ids = input_ids.expect_contiguous();
  const auto kinds_rows = kinds.expect_contiguous();
  check_vocabulary(*kinds_rows, *pool, vocabulary, mask_token_id);
  const auto epochs = epoch.expect_contiguous();
  for (int64_t i = 0; i < epochs->numel(); ++i) {
    const int64_t value = epochs->const_data_ptr<int64_t>()[i];
    TORCH_CHECK_VALUE(value >= 0 && value <= std::numeric_limits<uint32_t>::max(), "span_mask: epoch",
                      epoch.dim() == 0 ? std::string() : "[" + std::to_string(i) + "]", " is ", value,
                      "; expected 0 to 2^32 - 1");
  }
  at::Tensor attended, samples, spans;
  if (attention_mask) attended = attention_mask->contiguous();
  if (sample_ids) samples = sample_ids->contiguous();
  if (candidates) {
    spans = candidates->contiguous();
    check_candidates(spans, length);
  }

  const int64_t slots = token_budget(ratio, length);
  const auto index_options = input_ids.options().dtype(at::kLong);
  at::Tensor masked_ids = at::empty({rows, length}, input_ids.options());
  at::Tensor labels = at::empty({rows, length}, index_options);
  at::Tensor masked_positions = at::empty({rows, slots}, index_options);
  at::Tensor left_boundary = at::empty({rows, slots}, index_options);
  at::Tensor right_boundary = at::empty({rows, slots}, index_options);

  AT_DISPATCH_INDEX_TYPES(input_ids.scalar_type(), "span_mask", [&] {
    SpanBatch<index_t> batch{};
    batch.rows = rows;
    batch.length = length;
    batch.slots = slots;
    batch.words = length / 64 + 1;
    batch.ids = ids->const_data_ptr<index_t>();
    (has_table ? batch.table : batch.kinds) = kinds_rows->const_data_ptr<uint8_t>();
    if (attended.defined()) {
      batch.attention = attended.const_data_ptr();
      batch.attention_bytes = attended.element_size();
    }
    batch.sample_ids = samples.defined() ? samples.const_data_ptr<int64_t>() : nullptr;
    batch.epochs = epochs->const_data_ptr<int64_t>();
    batch.epoch_stride = epoch.dim();
    if (spans.defined()) batch.candidates = {true, spans.const_data_ptr<int64_t>(), spans.size(1)};
    batch.vocab_size = vocabulary;
    batch.pad_token_id = pad_token_id;
    batch.seed = static_cast<uint64_t>(*seed.const_data_ptr<int64_t>());
    batch.out = {masked_ids.mutable_data_ptr<index_t>(), labels.mutable_data_ptr<int64_t>(),
                 masked_positions.mutable_data_ptr<int64_t>(), left_boundary.mutable_data_ptr<int64_t>(),
                 right_boundary.mutable_data_ptr<int64_t>()};
    const int64_t bad_row = mask_batch(batch, rules);
    if (bad_row < rows) raise_bad_row(batch, bad_row);
  });
  return {masked_ids, labels, masked_positions, left_boundary, right_boundary};
}

}  // namespace spanbert_ext
