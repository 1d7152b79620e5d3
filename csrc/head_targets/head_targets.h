// What stands before and behind vocab_ce for the two heads: which rows predict what, with which weight in the
// loss, and what came of it. Everything is made on the device; no host learns a count.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace spanbert_ext {

// Rows of the MLM are the masked tokens that have a label, in order, R = min(B * K, max_rows) of them with
// -1 behind; rows of the SBO are the B * K slots. Returns (token_rows [R], ranks [B, K], targets [N],
// row_weight [N], counts [2]); N = R + B * K with left_boundary, else R. ranks: where each slot's MLM row is,
// or -1. More labels than R make the weights NaN on CUDA and raise on the CPU.
using HeadTargetsOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
HeadTargetsOutput head_targets_cpu(const at::Tensor& labels, const at::Tensor& masked_positions,
                                   const std::optional<at::Tensor>& left_boundary,
                                   const std::optional<at::Tensor>& num_items,
                                   const std::optional<at::Tensor>& num_sbo_items, double sbo_weight,
                                   at::ScalarType dtype, std::optional<int64_t> max_rows);
HeadTargetsOutput head_targets_cuda(const at::Tensor& labels, const at::Tensor& masked_positions,
                                    const std::optional<at::Tensor>& left_boundary,
                                    const std::optional<at::Tensor>& num_items,
                                    const std::optional<at::Tensor>& num_sbo_items, double sbo_weight,
                                    at::ScalarType dtype, std::optional<int64_t> max_rows);

// Returns (row_statistics [B, 6], means [4], mlm_prediction [B, K], sbo_prediction [B, K]).
using HeadStatisticsOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
HeadStatisticsOutput head_statistics_cpu(const at::Tensor& nll, const at::Tensor& prediction,
                                         const at::Tensor& targets, const at::Tensor& ranks, bool has_sbo);
HeadStatisticsOutput head_statistics_cuda(const at::Tensor& nll, const at::Tensor& prediction,
                                          const at::Tensor& targets, const at::Tensor& ranks, bool has_sbo);

// What both devices check: shapes, dtypes and devices, but no element.
void check_head_targets(const at::Tensor& labels, const at::Tensor& masked_positions,
                        const std::optional<at::Tensor>& left_boundary,
                        const std::optional<at::Tensor>& num_items,
                        const std::optional<at::Tensor>& num_sbo_items, at::ScalarType dtype,
                        std::optional<int64_t> max_rows);
// -> R, the rows of the MLM.
int64_t check_head_statistics(const at::Tensor& nll, const at::Tensor& prediction, const at::Tensor& targets,
                              const at::Tensor& ranks, bool has_sbo);

}  // namespace spanbert_ext
