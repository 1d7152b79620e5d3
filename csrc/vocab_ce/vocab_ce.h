// Vocabulary cross-entropy: logits = h @ weight^T + bias, loss = sum(row_weight * nll), gradients made in
// forward. No logits tensor outlives a chunk of rows.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

using VocabCeOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor,
                                 at::Tensor, at::Tensor>;

// Returns (loss [], nll [N], prediction [N], grad_unit [], dh_rows [R, D], slots [N], dw [V, D], db [G, V]).
// The gradients are those of loss / grad_unit; one that is not needed has shape [0]. dh_rows, in the compute
// dtype, holds the rows that take part in their order, R = compact_capacity(N, max_rows); row n of h has row
// slots[n] of it, or none (-1).
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

// The CUDA operator with rows of a chunk, a multiple of kRowMultiple, given (nothing: chosen).
VocabCeOutput vocab_ce_cuda_in_chunks(const at::Tensor& h, const at::Tensor& weight,
                                      const std::optional<at::Tensor>& bias, at::IntArrayRef first_rows,
                                      const at::Tensor& targets, const at::Tensor& row_weight,
                                      at::ScalarType compute_dtype, double label_smoothing,
                                      std::optional<int64_t> max_rows, bool need_dh, bool need_dw,
                                      bool need_db, std::optional<int64_t> chunk_rows);

// The gradient of h [N, D] in `dtype`: dh_rows times scale [], zero in rows without a slot.
at::Tensor vocab_ce_gradient_rows_cpu(const at::Tensor& dh_rows, const at::Tensor& slots,
                                      const at::Tensor& scale, at::ScalarType dtype);
at::Tensor vocab_ce_gradient_rows_cuda(const at::Tensor& dh_rows, const at::Tensor& slots,
                                       const at::Tensor& scale, at::ScalarType dtype);

// gradient *= scale [], in place and multiplied in scale's dtype; nothing is done where scale is 1.
void vocab_ce_scale_cpu(const at::Tensor& gradient, const at::Tensor& scale);
void vocab_ce_scale_cuda(const at::Tensor& gradient, const at::Tensor& scale);

// What every device checks before it reads: shapes, dtypes and devices, but no element of a tensor.
void check_vocab_ce(const at::Tensor& h, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                    at::IntArrayRef first_rows, const at::Tensor& targets, const at::Tensor& row_weight,
                    at::ScalarType compute_dtype, double label_smoothing, std::optional<int64_t> max_rows);

void check_gradient_rows(const at::Tensor& dh_rows, const at::Tensor& slots, const at::Tensor& scale,
                         at::ScalarType dtype);
void check_scale(const at::Tensor& gradient, const at::Tensor& scale);

// The checks that read elements; `targets` is on the CPU.
void check_targets(const at::Tensor& targets, int64_t vocab, std::optional<int64_t> max_rows);

}  // namespace spanbert_ext
