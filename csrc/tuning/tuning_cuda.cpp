// SPDX-License-Identifier: Apache-2.0
// Operators of builds with SPANBERT_EXT_TUNING=ON, for benchmarks/tune_cuda.py and tests of what it measures.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <iterator>

#include "common/cuda_host.h"
#include "common/operator.h"
#include "common/plain_dispatch.h"
#include "tuning/tuning.h"
#include "vocab_ce/chunk_rule.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {
namespace {

constexpr const char* kOp = "spanbert_ext_tuning";

std::vector<std::string> cross_entropy_variants() {
  return {std::begin(kCrossEntropyVariants), std::end(kCrossEntropyVariants)};
}

// logits [n, pitch] become their gradient. Returns nll and prediction of the targets.
std::tuple<at::Tensor, at::Tensor> cross_entropy(const at::Tensor& logits, const at::Tensor& rows,
                                                 const at::Tensor& targets, const at::Tensor& row_weight,
                                                 int64_t vocab, int64_t variant) {
  const PlainDispatch plain;
  const int64_t count = logits.dim() == 2 ? logits.size(0) : -1;
  TORCH_CHECK_VALUE(count > 0 && logits.is_contiguous() && logits.size(1) % kVocabMultiple == 0 &&
                        vocab > 0 && vocab <= logits.size(1),
                    kOp, ": logits has shape ", logits.sizes(), ", expected contiguous [n, pitch], pitch a ",
                    "multiple of ", kVocabMultiple, " and at least vocab = ", vocab);
  TORCH_CHECK_VALUE(reinterpret_cast<uintptr_t>(logits.const_data_ptr()) % 16 == 0, kOp,
                    ": logits begins off a multiple of 16 bytes, which are read at a time");
  TORCH_CHECK_TYPE(logits.scalar_type() == at::kBFloat16 && row_weight.scalar_type() == at::kFloat &&
                       targets.scalar_type() == at::kLong && rows.scalar_type() == at::kLong,
                   kOp, ": expected bfloat16 logits, float32 row_weight, int64 targets and rows");
  TORCH_CHECK_VALUE(rows.sizes() == at::IntArrayRef{count} && targets.dim() == 1 &&
                        row_weight.sizes() == targets.sizes() && rows.is_contiguous() &&
                        targets.is_contiguous() && row_weight.is_contiguous(),
                    kOp, ": expected contiguous rows [", count, "], targets [N] and row_weight [N]");
  constexpr int64_t kVariants = std::size(kCrossEntropyVariants);
  TORCH_CHECK_VALUE(variant >= 0 && variant < kVariants, kOp, ": variant is ", variant,
                    ", expected one below ", kVariants);
  const CudaScope scope(logits);
  const at::Tensor live = rows.ge(0).sum();
  const at::Tensor starts = at::stack({at::zeros_like(live), live});
  const at::Tensor nll = at::zeros(targets.sizes(), row_weight.options()),
                   weighted = at::empty_like(rows, at::kFloat);
  const at::Tensor prediction = at::full(targets.sizes(), -1, targets.options());
  const int64_t* const start = starts.const_data_ptr<int64_t>();
  check_launch(
      kOp, launch_cross_entropy_variant({.chunk = {.type = FloatType::kBFloat16,
                                                   .logits = logits.mutable_data_ptr(),
                                                   .rows = count,
                                                   .vocab = vocab,
                                                   .pitch = logits.size(1),
                                                   .first = 0,
                                                   .live = {rows.const_data_ptr<int64_t>(), start + 1, start},
                                                   .groups = 1},
                                         .capacity = count,
                                         .targets = targets.const_data_ptr<int64_t>(),
                                         .row_weight = row_weight.const_data_ptr(),
                                         .bias_columns = nullptr,
                                         .operand_pitch = 0,
                                         .has_forbidden = nullptr,
                                         .grad_unit = nullptr,
                                         .smoothing = 0,
                                         .need_grad = true,
                                         .nll = nll.mutable_data_ptr(),
                                         .weighted_nll = weighted.mutable_data_ptr(),
                                         .prediction = prediction.mutable_data_ptr<int64_t>()},
                                        static_cast<int>(variant), scope.stream()));
  return {nll, prediction};
}

struct VocabCeInChunks {
  VocabCeArguments arguments;
  int64_t chunk_rows;
};

VocabCeOutput vocab_ce(const VocabCeInChunks& call) {
  TORCH_CHECK_VALUE(call.chunk_rows > 0 && call.chunk_rows % kRowMultiple == 0, kOp, ": chunk_rows is ",
                    call.chunk_rows, ", expected a positive multiple of ", kRowMultiple);
  return vocab_ce_cuda_in_chunks(call.arguments, call.chunk_rows);
}

int64_t chunk_rows(int64_t rows, int64_t width, int64_t pitch, int64_t element_bytes,
                   int64_t multiprocessors) {
  return best_chunk_rows({rows, width, pitch, element_bytes, static_cast<int>(multiprocessors)});
}

}  // namespace

TORCH_LIBRARY(spanbert_ext_tuning, m) {
  m.def("cross_entropy_variants() -> str[]", &cross_entropy_variants);
  m.def("chunk_rows(int rows, int width, int pitch, int element_bytes, int multiprocessors) -> int",
        &chunk_rows);
  m.def(
      "cross_entropy(Tensor(a!) logits, Tensor rows, Tensor targets, Tensor row_weight, int vocab, int "
      "variant)"
      " -> (Tensor nll, Tensor prediction)");
  m.def(
      "vocab_ce(Tensor h, Tensor weight, Tensor? bias, int[] first_rows, Tensor targets, Tensor row_weight,"
      " ScalarType compute_dtype, float label_smoothing, int? max_rows, bool need_dh, bool need_dw,"
      " bool need_db, int chunk_rows)"
      " -> (Tensor loss, Tensor nll, Tensor prediction, Tensor grad_unit, Tensor dh_rows,"
      " Tensor compact_rows, Tensor dw, Tensor db)");
#ifdef SPANBERT_EXT_EMULATE_CUDA
  // The CPU's operator, as it is where torch has brgemm: tests/emulated_brgemm.
  m.def(
      "vocab_ce_brgemm(Tensor h, Tensor weight, Tensor? bias, int[] first_rows, Tensor targets,"
      " Tensor row_weight, ScalarType compute_dtype, float label_smoothing, int? max_rows, bool need_dh,"
      " bool need_dw, bool need_db)"
      " -> (Tensor loss, Tensor nll, Tensor prediction, Tensor grad_unit, Tensor dh_rows,"
      " Tensor compact_rows, Tensor dw, Tensor db)");
#endif
}

#ifdef SPANBERT_EXT_EMULATE_CUDA
TORCH_LIBRARY_IMPL(spanbert_ext_tuning, CPU, m) {
  m.impl("vocab_ce_brgemm", operator_of<&vocab_ce_cpu>());
#else
TORCH_LIBRARY_IMPL(spanbert_ext_tuning, CUDA, m) {
#endif
  m.impl("cross_entropy", &cross_entropy);
  m.impl("vocab_ce", operator_of<&vocab_ce>());
}

}  // namespace spanbert_ext
