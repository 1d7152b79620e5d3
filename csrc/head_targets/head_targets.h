// SPDX-License-Identifier: Apache-2.0
// What stands before and behind vocab_ce for the two heads: which rows predict what, with which weight in the
// loss, and what came of it. Everything is made on the device; no count is read on the host.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

namespace spanbert_ext {

struct HeadTargetsArguments {
  at::Tensor labels, masked_positions;                 // [B, L], [B, K] int64
  std::optional<at::Tensor> left_boundary;             // [B, K] int64
  std::optional<at::Tensor> num_items, num_sbo_items;  // one value of `dtype` each
  double sbo_weight;
  at::ScalarType dtype;
  std::optional<int64_t> max_rows;

  int64_t mlm_rows() const {
    return std::min(masked_positions.numel(), max_rows.value_or(masked_positions.numel()));
  }
  int64_t all_rows() const { return mlm_rows() + (left_boundary.has_value() ? masked_positions.numel() : 0); }
};

// Rows of the MLM are the masked tokens that have a label, in order, R = min(B * K, max_rows) of them with
// -1 behind; rows of the SBO are the B * K entries. (token_rows [R], ranks [B, K], targets [N],
// row_weight [N], counts [2]); N = R + B * K with left_boundary, else R. ranks: where each entry's MLM row is,
// or -1. More labels than R make the weights NaN on CUDA and raise on the CPU.
using HeadTargetsOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
HeadTargetsOutput head_targets_cpu(const HeadTargetsArguments& arguments);
HeadTargetsOutput head_targets_cuda(const HeadTargetsArguments& arguments);

struct HeadStatisticsArguments {
  at::Tensor nll, prediction, targets;  // [N]
  at::Tensor ranks;                     // [B, K]
  bool has_sbo;

  int64_t mlm_rows() const { return targets.size(0) - (has_sbo ? ranks.numel() : 0); }
};

// (row_statistics [B, 6], means [4], mlm_prediction [B, K], sbo_prediction [B, K]).
using HeadStatisticsOutput = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
HeadStatisticsOutput head_statistics_cpu(const HeadStatisticsArguments& arguments);
HeadStatisticsOutput head_statistics_cuda(const HeadStatisticsArguments& arguments);

// What both devices check: shapes, dtypes, layouts and devices, but no element.
void check_head_targets(const HeadTargetsArguments& arguments);
void check_head_statistics(const HeadStatisticsArguments& arguments);

}  // namespace spanbert_ext
