// SPDX-License-Identifier: Apache-2.0
// Vocabulary cross-entropy: logits = h @ weight^T + bias, loss = sum(row_weight * nll), gradients made in
// forward. No logits tensor outlives a chunk of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

namespace spanbert_ext {

struct VocabCeArguments {
  at::Tensor h, weight;             // [N, D], [V, D]
  std::optional<at::Tensor> bias;   // [G, V]
  std::vector<int64_t> first_rows;  // G: where each group of rows begins, the first one at 0
  at::Tensor targets, row_weight;   // [N] int64; [N] in the accumulation dtype
  at::ScalarType compute_dtype;
  double label_smoothing;
  std::optional<int64_t> max_rows;
  bool need_dh, need_dw, need_db;

  int64_t groups() const { return static_cast<int64_t>(first_rows.size()); }
  bool makes_db() const { return need_db && bias.has_value(); }
};

// (loss [], nll [N], prediction [N], grad_unit [], dh_rows [R, D], compact_rows [N], dw [V, D], db [G, V]).
// The gradients are those of loss / grad_unit; one that is not needed has shape [0]. dw and db have the
// kept_gradient_dtype of their parameters. dh_rows, in the compute dtype, holds the rows that take part in their
// order, R = compact_capacity(N, max_rows); row n of h has row compact_rows[n] of it, or none (-1).
using VocabCeOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                 at::Tensor, at::Tensor>;
VocabCeOutput vocab_ce_cpu(const VocabCeArguments& arguments);
VocabCeOutput vocab_ce_cuda(const VocabCeArguments& arguments);

// The CUDA operator with rows of a chunk, a multiple of kRowMultiple, given (nothing: chosen).
VocabCeOutput vocab_ce_cuda_in_chunks(const VocabCeArguments& arguments, std::optional<int64_t> chunk_rows);

// The gradient of h [N, D] in `dtype`: dh_rows times scale [], zero in rows without a compact row.
struct GradientRowsArguments {
  at::Tensor dh_rows, compact_rows, scale;
  at::ScalarType dtype;
};
at::Tensor vocab_ce_gradient_rows_cpu(const GradientRowsArguments& arguments);
at::Tensor vocab_ce_gradient_rows_cuda(const GradientRowsArguments& arguments);

// gradient *= scale [], in place and multiplied in scale's dtype; nothing is done where scale is 1.
struct ScaleArguments {
  at::Tensor gradient, scale;
};
void vocab_ce_scale_cpu(const ScaleArguments& arguments);
void vocab_ce_scale_cuda(const ScaleArguments& arguments);

// What every device checks before it reads: shapes, dtypes, layouts and devices, but no element of a tensor.
void check_vocab_ce(const VocabCeArguments& arguments);
void check_gradient_rows(const GradientRowsArguments& arguments);
void check_scale(const ScaleArguments& arguments);

// The checks that read elements; `targets` is on the CPU.
void check_targets(const at::Tensor& targets, int64_t vocab, std::optional<int64_t> max_rows);

}  // namespace spanbert_ext
