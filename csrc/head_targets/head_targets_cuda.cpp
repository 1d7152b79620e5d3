// SPDX-License-Identifier: Apache-2.0
// CUDA: kernels that make every row and every sum without the host. Beside the outputs they need a pair of
// counts for each 512 entries.
#include "head_targets/head_targets_cuda.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/cuda_host.h"
#include "common/plain_dispatch.h"
#include "head_targets/head_targets.h"

namespace spanbert_ext {

HeadTargetsOutput head_targets_cuda(const HeadTargetsArguments& arguments) {
  const PlainDispatch plain;
  check_head_targets(arguments);
  const auto& [labels, masked_positions, left_boundary, num_items, num_sbo_items, sbo_weight, dtype,
               max_rows] = arguments;
  if (debug_checks()) {
    const auto on_host = [](const std::optional<at::Tensor>& tensor) {
      return tensor.has_value() ? std::optional<at::Tensor>(tensor->cpu()) : std::nullopt;
    };
    head_targets_cpu({labels.cpu(), masked_positions.cpu(), on_host(left_boundary), on_host(num_items),
                      on_host(num_sbo_items), sbo_weight, dtype, max_rows});
  }
  const CudaScope scope(labels);
  const at::Tensor ids = labels.contiguous(), positions = masked_positions.contiguous();
  const at::Tensor left = left_boundary.has_value() ? left_boundary->contiguous() : at::Tensor();
  const int64_t total = positions.numel(), rows = arguments.mlm_rows(), all_rows = arguments.all_rows();
  const auto index = labels.options();
  const at::Tensor token_rows = at::empty({rows}, index), ranks = at::empty(positions.sizes(), index);
  const at::Tensor targets = at::empty({all_rows}, index), counts = at::empty({2}, index);
  const at::Tensor row_weight = at::empty({all_rows}, index.dtype(dtype));
  const at::Tensor partial = at::empty({head_entry_blocks(total), 2}, index);
  const auto pointer = [](const std::optional<at::Tensor>& count) {
    return count.has_value() ? count->const_data_ptr() : nullptr;
  };
  check_launch("head_targets",
               launch_head_targets(
                   {.batch = {.labels = ids.const_data_ptr<int64_t>(),
                              .masked_positions = positions.const_data_ptr<int64_t>(),
                              .left_boundary = left.defined() ? left.const_data_ptr<int64_t>() : nullptr,
                              .length = labels.size(1),
                              .entries = positions.size(1),
                              .total = total},
                    .rows = rows,
                    .accumulate = float_type(dtype),
                    .num_items = pointer(num_items),
                    .num_sbo_items = pointer(num_sbo_items),
                    .sbo_weight = sbo_weight,
                    .partial = static_cast<HeadCounts*>(partial.mutable_data_ptr()),
                    .token_rows = token_rows.mutable_data_ptr<int64_t>(),
                    .ranks = ranks.mutable_data_ptr<int64_t>(),
                    .targets = targets.mutable_data_ptr<int64_t>(),
                    .row_weight = row_weight.mutable_data_ptr(),
                    .counts = static_cast<HeadCounts*>(counts.mutable_data_ptr())},
                   scope.stream()));
  return {token_rows, ranks, targets, row_weight, counts};
}

HeadStatisticsOutput head_statistics_cuda(const HeadStatisticsArguments& arguments) {
  const PlainDispatch plain;
  check_head_statistics(arguments);
  const auto& [nll, prediction, targets, ranks, has_sbo] = arguments;
  const CudaScope scope(ranks);
  const at::Tensor losses = nll.contiguous(), predicted = prediction.contiguous(), ids = targets.contiguous();
  const at::Tensor rank = ranks.contiguous();
  const at::Tensor statistics = at::empty({ranks.size(0), kRowSums}, nll.options());
  const at::Tensor means = at::empty({kMeans}, nll.options());
  const at::Tensor mlm = at::empty(ranks.sizes(), ranks.options()),
                   sbo = at::empty(ranks.sizes(), ranks.options());
  check_launch("head_statistics", launch_head_statistics({.batch = ranks.size(0),
                                                          .entries = ranks.size(1),
                                                          .rows = arguments.mlm_rows(),
                                                          .has_sbo = has_sbo,
                                                          .accumulate = float_type(nll.scalar_type()),
                                                          .nll = losses.const_data_ptr(),
                                                          .prediction = predicted.const_data_ptr<int64_t>(),
                                                          .targets = ids.const_data_ptr<int64_t>(),
                                                          .ranks = rank.const_data_ptr<int64_t>(),
                                                          .row_statistics = statistics.mutable_data_ptr(),
                                                          .means = means.mutable_data_ptr(),
                                                          .mlm_prediction = mlm.mutable_data_ptr<int64_t>(),
                                                          .sbo_prediction = sbo.mutable_data_ptr<int64_t>()},
                                                         scope.stream()));
  return {statistics, means, mlm, sbo};
}

}  // namespace spanbert_ext
