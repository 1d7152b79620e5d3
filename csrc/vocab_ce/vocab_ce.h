// Vocabulary cross-entropy: logits = h @ weight^T + bias, loss = sum(row_weight * nll), gradients made in
// forward. No logits tensor outlives a chunk of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

using VocabCeOutput =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Returns (loss [], nll [N], prediction [N], grad_unit [], dh [N, D], dw [V, D], db [G, V]). The gradients
// are those of loss / grad_unit; one that is not needed has shape [0].
VocabCeOutput vocab_ce_cpu(const at::Tensor& h, const at::Tensor& weight,
                           const std::optional<at::Tensor>& bias, at::IntArrayRef first_rows,
                           const at::Tensor& targets, const at::Tensor& row_weight,
                           at::ScalarType compute_dtype, double label_smoothing,
                           std::optional<int64_t> max_rows, bool need_dh, bool need_dw, bool need_db);
VocabCeOutput vocab_ce_cuda(const at::Tensor& h, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, at::IntArrayRef first_rows,
                            const at::Tensor& targets, const at::Tensor& row_weight,
                            at::ScalarType compute_dtype, double label_smoothing,
                            std::optional<int64_t> max_rows, bool need_dh, bool need_dw, bool need_db);

// What every device checks before it reads: shapes, dtypes and devices, but no element of a tensor.
void check_vocab_ce(const at::Tensor& h, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                    at::IntArrayRef first_rows, const at::Tensor& targets, const at::Tensor& row_weight,
                    at::ScalarType compute_dtype, double label_smoothing, std::optional<int64_t> max_rows);

// The checks that read elements; `targets` is on the CPU.
void check_targets(const at::Tensor& targets, int64_t vocab, std::optional<int64_t> max_rows);

}  // namespace spanbert_ext
