// SPDX-License-Identifier: Apache-2.0
#include <ATen/Dispatch.h>

#include <algorithm>
#include <limits>
#include <string>

#include "common/checks.h"
#include "span_mask/span_mask_task.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kTokenLimit = int64_t{1} << 56;  // the bytes of all outputs can be counted

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

void check_vocabulary(const at::Tensor& kinds, const at::Tensor& random_ids, int64_t vocab_size) {
  const int64_t* ids = random_ids.const_data_ptr<int64_t>();
  const bool bad = has_outside(ids, random_ids.numel(), vocab_size);
  for (int64_t i = 0; bad && i < random_ids.numel(); ++i) {
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

void check_epochs(const at::Tensor& epoch) {
  for (int64_t i = 0; i < epoch.numel(); ++i) {
    const int64_t value = epoch.const_data_ptr<int64_t>()[i];
    TORCH_CHECK_VALUE(value >= 0 && value <= std::numeric_limits<uint32_t>::max(), "span_mask: epoch",
                      epoch.dim() == 0 ? std::string() : "[" + std::to_string(i) + "]", " is ", value,
                      "; expected 0 to 2^32 - 1");
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

void check_arguments(const SpanMaskArguments& arguments) {
  const at::Tensor &input_ids = arguments.input_ids, &kinds = arguments.kinds,
                   &random_ids = arguments.random_ids, &seed = arguments.seed, &epoch = arguments.epoch;
  const std::optional<at::Tensor>&attention_mask = arguments.attention_mask,
        &sample_ids = arguments.sample_ids, &candidates = arguments.candidates;
  TensorArguments("span_mask", "input_ids", input_ids)
      .check("kinds", kinds)
      .check("random_ids", random_ids)
      .check("seed", seed)
      .check("epoch", epoch)
      .check("attention_mask", attention_mask)
      .check("sample_ids", sample_ids)
      .check("candidates", candidates);
  TORCH_CHECK_TYPE(input_ids.scalar_type() == at::kLong || input_ids.scalar_type() == at::kInt,
                   "span_mask: input_ids is ", input_ids.scalar_type(), "; expected int64 or int32");
  TORCH_CHECK_VALUE(input_ids.dim() == 2, "span_mask: input_ids has shape ", input_ids.sizes(),
                    "; expected [B, L]");
  const int64_t rows = input_ids.size(0), length = input_ids.size(1);
  TORCH_CHECK_VALUE(length < kRowLimit, "span_mask: input_ids has rows of ", length,
                    " tokens; expected fewer than 2^28");
  TORCH_CHECK_VALUE(input_ids.numel() < kTokenLimit, "span_mask: input_ids has shape ", input_ids.sizes(),
                    "; expected fewer than 2^56 tokens");
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
    const at::ScalarType type =
        attention_mask->scalar_type();  // for uint16 and wider PyTorch has few operators
    TORCH_CHECK_TYPE(at::isIntegralType(type, /*includeBool=*/true) && !c10::isBarebonesUnsignedType(type),
                     "span_mask: attention_mask is ", type,
                     "; expected bool, uint8 or a signed integer type");
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
  check_share(arguments.ratio, "ratio");
  TORCH_CHECK_VALUE(arguments.p > 0 && arguments.p <= 1, "span_mask: p is ", arguments.p,
                    "; expected a number in (0, 1]");
  TORCH_CHECK_VALUE(arguments.max_words >= 1 && arguments.max_words <= kMaxWordsLimit,
                    "span_mask: max_words is ", arguments.max_words, "; expected 1 to ", kMaxWordsLimit);
  TORCH_CHECK_VALUE(arguments.position_slots >= 0, "span_mask: position_slots is ", arguments.position_slots,
                    "; expected 0 or more");
  check_share(arguments.mask_share, "mask_share");
  check_share(arguments.random_share, "random_share");
  check_share(arguments.candidate_share, "candidate_share");
  TORCH_CHECK_VALUE(arguments.mask_share + arguments.random_share <= 1,
                    "span_mask: mask_share + random_share is ", arguments.mask_share + arguments.random_share,
                    "; expected at most 1");

  const bool has_table = kinds.dim() == 1;
  TORCH_CHECK_VALUE(!has_table || kinds.size(0) > 0,
                    "span_mask: kinds has shape [0]; expected one kind for each id");
  TORCH_CHECK_VALUE(!has_table || !arguments.vocab_size || *arguments.vocab_size == kinds.size(0),
                    "span_mask: vocab_size is ", arguments.vocab_size.value_or(0), " but kinds has shape ",
                    kinds.sizes(), "; expected [vocab_size]");
  const bool draws_ids =
      share_threshold(arguments.mask_share + arguments.random_share) > share_threshold(arguments.mask_share);
  TORCH_CHECK_VALUE(random_ids.numel() > 0 || !draws_ids,
                    "span_mask: random_ids is empty but random_share is ", arguments.random_share,
                    "; expected ids to draw from, or random_share 0");
  const int64_t vocabulary = vocabulary_of(arguments);
  TORCH_CHECK_INDEX(arguments.mask_token_id >= 0 && arguments.mask_token_id < vocabulary,
                    "span_mask: mask_token_id is ", arguments.mask_token_id, ", outside the vocabulary [0, ",
                    vocabulary, ")");
}

void check_elements(const SpanMaskArguments& arguments) {
  check_vocabulary(arguments.kinds, arguments.random_ids, vocabulary_of(arguments));
  check_epochs(arguments.epoch);
  if (arguments.candidates) check_candidates(*arguments.candidates, arguments.input_ids.size(1));
}

void check_rows(const SpanMaskArguments& arguments, int64_t begin, int64_t end) {
  const int64_t length = arguments.input_ids.size(1), vocab_size = vocabulary_of(arguments);
  const uint8_t* kinds =
      arguments.kinds.dim() == 2 ? arguments.kinds.const_data_ptr<uint8_t>() : nullptr;  // [B, L]
  AT_DISPATCH_INDEX_TYPES(arguments.input_ids.scalar_type(), "span_mask", [&] {
    const index_t* ids = arguments.input_ids.const_data_ptr<index_t>();  // [B, L]
    for (int64_t i = begin * length; i < end * length; ++i) {
      const int64_t id = ids[i];
      TORCH_CHECK_INDEX(
          id >= 0 && id < vocab_size, "span_mask: input_ids[", i / length, ", ", i % length, "] is ", id,
          ", outside the vocabulary [0, ",
          vocab_size == std::numeric_limits<int64_t>::max() ? "2^63" : std::to_string(vocab_size),
          "). Were the ids made by another tokenizer than the kinds?");
      TORCH_CHECK_VALUE(kinds == nullptr || kinds[i] <= kSpecial, "span_mask: kinds[", i / length, ", ",
                        i % length, "] is ", static_cast<int>(kinds[i]),
                        "; expected 0 (continues a word), 1 (starts a word) or 2 (special)");
    }
  });
}

}  // namespace spanbert_ext
