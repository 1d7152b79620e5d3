// SPDX-License-Identifier: Apache-2.0
// CUDA. Rows with a target are moved to the front (compacted) and decoded a chunk at a time, every matrix
// padded as vocab_ce_cuda.h says:
//
//   per chunk:  logits = compact @ operand^T  ->  loss, prediction, gradient in place  ->  db
//               dw += gradient^T @ compact,  dh = gradient @ operand
//
// How many rows take part is not read on the host: GEMMs are sized by max_rows, where the caller gives it,
// else by N. Peak memory beside the outputs: one chunk of logits (chunk_rule.h) and the sums of its columns,
// R * D' rows, one operand [V', D'], and one [V', D] in float32 where a bfloat16 weight needs several chunks.
#include "vocab_ce/vocab_ce_cuda.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/cuda_host.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"
#include "vocab_ce/chunk_rule.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {
namespace {

constexpr const char* kOp = "vocab_ce";

RowGroups row_groups(at::IntArrayRef first_rows) {
  TORCH_CHECK_VALUE(first_rows.size() <= kMaxGroups, "vocab_ce: first_rows has ", first_rows.size(),
                    " entries, expected at most ", kMaxGroups, " on CUDA");
  RowGroups groups{.count = static_cast<int>(first_rows.size()), .first = {}};
  std::copy(first_rows.begin(), first_rows.end(), groups.first);
  return groups;
}

// float16 gradients are kept in units of the largest row weight, see vocab_ce.cpp; made on the device.
at::Tensor float16_gradient_unit(const at::Tensor& row_weight, const at::Tensor& targets) {
  const at::Tensor largest = row_weight.masked_fill(targets < 0, 0).abs().amax();
  const at::Tensor unit = largest.log2().ceil().exp2();
  return at::where((largest > 0).logical_and(largest.isfinite()), unit, at::ones_like(unit));
}

// The decoder matrix as an operand [V', D'], or as it is where that is as good: [V, D].
at::Tensor decoder_operand(const at::Tensor& weight, const std::optional<at::Tensor>& bias, int groups,
                           at::ScalarType compute_dtype, int* has_forbidden, cudaStream_t stream) {
  const int64_t vocab = weight.size(0), width = weight.size(1);
  const int64_t element_bytes = static_cast<int64_t>(c10::elementSize(compute_dtype));
  const int64_t columns = width + (bias.has_value() ? 2 * groups : 0);
  const bool is_aligned = vocab * element_bytes % 16 == 0 && width * element_bytes % 16 == 0;
  if (weight.scalar_type() == compute_dtype && !bias.has_value() && is_aligned && weight.is_contiguous()) {
    return weight;
  }
  const int64_t pitch =
      round_up(columns, bias.has_value() ? kWidthBytes / element_bytes : 16 / element_bytes);
  const at::Tensor values = weight.contiguous();
  const at::Tensor bias_values = bias.has_value() ? bias->contiguous() : at::Tensor();
  const at::Tensor operand =
      at::empty({round_up(vocab, kVocabMultiple), pitch}, weight.options().dtype(compute_dtype));
  check_launch(kOp, launch_pack_decoder({.type = float_type(compute_dtype),
                                         .weight_type = float_type(weight.scalar_type()),
                                         .bias_type = float_type(bias.has_value() ? bias->scalar_type()
                                                                                  : weight.scalar_type()),
                                         .weight = values.const_data_ptr(),
                                         .bias = bias.has_value() ? bias_values.const_data_ptr() : nullptr,
                                         .vocab = vocab,
                                         .width = width,
                                         .rows = operand.size(0),
                                         .pitch = pitch,
                                         .groups = groups,
                                         .operand = operand.mutable_data_ptr(),
                                         .has_forbidden = has_forbidden},
                                        stream));
  return operand;
}

}  // namespace

VocabCeOutput vocab_ce_cuda(const VocabCeArguments& arguments) {
  return vocab_ce_cuda_in_chunks(arguments, std::nullopt);
}

VocabCeOutput vocab_ce_cuda_in_chunks(const VocabCeArguments& arguments, std::optional<int64_t> chunk_rows) {
  const PlainDispatch plain;
  check_vocab_ce(arguments);
  const auto& [h, weight, bias, first_rows, targets, row_weight, compute_dtype, label_smoothing, max_rows,
               need_dh, need_dw, need_db_if_bias] = arguments;
  const RowGroups groups = row_groups(first_rows);
  if (debug_checks()) check_targets(targets.cpu(), weight.size(0), max_rows);
  const CudaScope scope(h);
  const cudaStream_t stream = scope.stream();
  const bool need_db = arguments.makes_db();
  const bool need_grad = need_dh || need_dw || need_db;

  const int64_t total = h.size(0), width = h.size(1), vocab = weight.size(0);
  const int64_t capacity = std::min(total, max_rows.value_or(total));
  const int64_t rows = compact_capacity(total, max_rows), pitch = round_up(vocab, kVocabMultiple);
  const auto acc = h.options().dtype(accumulation_dtype(compute_dtype));
  const auto compute = h.options().dtype(compute_dtype), index = targets.options();
  const FloatType type = float_type(compute_dtype);
  const at::Tensor ids = targets.contiguous(), weights = row_weight.contiguous();

  const at::Tensor nll = at::empty({total}, acc), prediction = at::empty({total}, index);
  const at::Tensor compact_rows = at::empty({total}, index), live_rows = at::empty({total}, index);
  const at::Tensor starts = at::empty({groups.count + 1}, index);
  int64_t* const start = starts.mutable_data_ptr<int64_t>();
  const LiveRows live{live_rows.const_data_ptr<int64_t>(), start + groups.count, start};
  check_launch(kOp, launch_list_rows({.targets = ids.const_data_ptr<int64_t>(),
                                      .total = total,
                                      .groups = groups,
                                      .capacity = rows,
                                      .accumulate = float_type(acc.dtype().toScalarType()),
                                      .rows = live_rows.mutable_data_ptr<int64_t>(),
                                      .starts = start,
                                      .compact_rows = compact_rows.mutable_data_ptr<int64_t>(),
                                      .nll = nll.mutable_data_ptr(),
                                      .prediction = prediction.mutable_data_ptr<int64_t>()},
                                     stream));

  const at::Tensor forbidden =
      label_smoothing > 0 ? at::zeros({groups.count}, index.dtype(at::kInt)) : at::Tensor();
  int* const has_forbidden = forbidden.defined() ? forbidden.mutable_data_ptr<int>() : nullptr;
  const at::Tensor operand =
      decoder_operand(weight, bias, groups.count, compute_dtype, has_forbidden, stream);  // [V', D']
  const int64_t decoded = operand.size(0);
  const at::Tensor source = h.stride(1) == 1 ? h : h.contiguous();
  const at::Tensor compact = at::empty({rows, operand.size(1)}, compute);
  check_launch(kOp, launch_gather_hidden({.type = type,
                                          .h_type = float_type(h.scalar_type()),
                                          .h = source.const_data_ptr(),
                                          .stride = source.stride(0),
                                          .width = width,
                                          .rows = rows,
                                          .pitch = compact.size(1),
                                          .live = live,
                                          .groups = groups.count,
                                          .has_bias = bias.has_value(),
                                          .compact = compact.mutable_data_ptr()},
                                         stream));

  const bool in_float16 = compute_dtype == at::kHalf && total > 0;
  const at::Tensor grad_unit = in_float16 ? float16_gradient_unit(weights, ids) : at::empty({}, acc);
  const at::Tensor weighted_nll = at::empty({rows}, acc);
  const int64_t chunk = chunk_rows.value_or(best_chunk_rows({.rows = rows,
                                                             .width = width,
                                                             .pitch = pitch,
                                                             .element_bytes = compact.element_size(),
                                                             .multiprocessors = multiprocessors()}));
  const at::ScalarType dw_dtype = kept_gradient_dtype(weight.scalar_type());
  const at::ScalarType db_dtype = bias.has_value() ? kept_gradient_dtype(bias->scalar_type()) : dw_dtype;
  // One product rounds to the kept dtype just once; a sum of several is made in the accumulate dtype.
  const bool rounds_once = rows <= chunk && dw_dtype == compute_dtype;
  const at::Tensor dw = at::empty({need_dw ? decoded : 0, width}, rounds_once ? compute : acc);
  const at::Tensor db = at::empty({need_db ? groups.count : 0, vocab}, acc);
  const at::Tensor dh_rows = at::empty({need_dh ? rows : 0, width}, compute);
  if (rows == 0) {
    dw.zero_();
    db.zero_();
  }
  const at::Tensor buffer = at::empty({std::min(chunk, rows), pitch}, compute);
  const at::Tensor partial =
      at::empty({need_db ? column_slices(buffer.size(0)) : 0, groups.count, pitch}, acc);
  for (int64_t first = 0; first < rows; first += chunk) {
    const at::Tensor hidden = compact.narrow(0, first, std::min(chunk, rows - first));  // [count, D']
    const at::Tensor logits = buffer.narrow(0, 0, hidden.size(0));                      // [count, pitch]
    const at::Tensor words = logits.narrow(1, 0, decoded);                              // [count, V']
    multiply_cuda(words, hidden, operand.t());
    const LogitsChunk view{.type = type,
                           .logits = logits.mutable_data_ptr(),
                           .rows = hidden.size(0),
                           .vocab = vocab,
                           .pitch = pitch,
                           .first = first,
                           .live = live,
                           .groups = groups.count};
    const char* const bias_columns =
        bias.has_value() ? static_cast<const char*>(operand.const_data_ptr()) + width * operand.element_size()
                         : nullptr;
    check_launch(kOp, launch_cross_entropy({.chunk = view,
                                            .capacity = capacity,
                                            .targets = ids.const_data_ptr<int64_t>(),
                                            .row_weight = weights.const_data_ptr(),
                                            .bias_columns = bias_columns,
                                            .operand_pitch = operand.size(1),
                                            .has_forbidden = has_forbidden,
                                            .grad_unit = in_float16 ? grad_unit.const_data_ptr() : nullptr,
                                            .smoothing = label_smoothing,
                                            .need_grad = need_grad,
                                            .nll = nll.mutable_data_ptr(),
                                            .weighted_nll = weighted_nll.mutable_data_ptr(),
                                            .prediction = prediction.mutable_data_ptr<int64_t>()},
                                           stream));
    if (need_db) {
      check_launch(kOp, launch_column_sums(view, partial.mutable_data_ptr(), db.mutable_data_ptr(),
                                           /*accumulate=*/first > 0, stream));
    }
    if (need_dw) multiply_cuda(dw, words.t(), hidden.narrow(1, 0, width), /*accumulate=*/first > 0);
    if (need_dh) {
      multiply_cuda(dh_rows.narrow(0, first, hidden.size(0)), words, operand.narrow(1, 0, width));
    }
  }

  const at::Tensor loss = at::empty({}, acc);
  check_launch(kOp, launch_sum_loss({.accumulate = float_type(acc.dtype().toScalarType()),
                                     .weighted_nll = weighted_nll.const_data_ptr(),
                                     .count = live.count,
                                     .capacity = capacity,
                                     .loss = loss.mutable_data_ptr(),
                                     .grad_unit = in_float16 ? nullptr : grad_unit.mutable_data_ptr()},
                                    stream));
  const auto none = [&h = h](at::ScalarType dtype) { return at::empty({0}, h.options().dtype(dtype)); };
  return {loss,
          nll,
          prediction,
          grad_unit,
          need_dh ? dh_rows : none(compute_dtype),
          compact_rows,
          need_dw ? dw.narrow(0, 0, vocab).to(dw_dtype) : none(dw_dtype),
          need_db ? db.to(db_dtype) : none(db_dtype)};
}

at::Tensor vocab_ce_gradient_rows_cuda(const GradientRowsArguments& arguments) {
  const PlainDispatch plain;
  check_gradient_rows(arguments);
  const CudaScope scope(arguments.dh_rows);
  const at::Tensor rows = arguments.dh_rows.contiguous(), compact_rows = arguments.compact_rows.contiguous();
  const at::Tensor out =
      at::empty({compact_rows.size(0), rows.size(1)}, rows.options().dtype(arguments.dtype));
  check_launch(kOp, launch_gradient_rows({.type = float_type(rows.scalar_type()),
                                          .out_type = float_type(arguments.dtype),
                                          .rows = rows.const_data_ptr(),
                                          .capacity = rows.size(0),
                                          .width = rows.size(1),
                                          .compact_rows = compact_rows.const_data_ptr<int64_t>(),
                                          .total = compact_rows.size(0),
                                          .scale = arguments.scale.const_data_ptr(),
                                          .out = out.mutable_data_ptr()},
                                         scope.stream()));
  return out;
}

void vocab_ce_scale_cuda(const ScaleArguments& arguments) {
  const PlainDispatch plain;
  check_scale(arguments);
  const auto& [gradient, scale] = arguments;
  const CudaScope scope(gradient);
  check_launch(kOp, launch_scale(float_type(gradient.scalar_type()), gradient.mutable_data_ptr(),
                                 gradient.numel(), scale.const_data_ptr(), scope.stream()));
}

}  // namespace spanbert_ext
