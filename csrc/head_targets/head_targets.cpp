// SPDX-License-Identifier: Apache-2.0
// CPU.
#include "head_targets/head_targets.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>

#include <algorithm>

#include "common/plain_dispatch.h"
#include "head_targets/head_rules.h"

namespace spanbert_ext {
namespace {

template <typename A>
const A* value_of(const std::optional<at::Tensor>& count) {
  return count.has_value() ? count->const_data_ptr<A>() : nullptr;
}

}  // namespace

HeadTargetsOutput head_targets_cpu(const HeadTargetsArguments& arguments) {
  const PlainDispatch plain;
  check_head_targets(arguments);
  const auto& [labels, masked_positions, left_boundary, num_items, num_sbo_items, sbo_weight, dtype,
               max_rows] = arguments;
  const at::Tensor ids = labels.contiguous(), positions = masked_positions.contiguous();
  const at::Tensor left = left_boundary.has_value() ? left_boundary->contiguous() : at::Tensor();
  const HeadBatch batch{.labels = ids.const_data_ptr<int64_t>(),
                        .masked_positions = positions.const_data_ptr<int64_t>(),
                        .left_boundary = left.defined() ? left.const_data_ptr<int64_t>() : nullptr,
                        .length = labels.size(1),
                        .entries = positions.size(1),
                        .total = positions.numel()};
  const int64_t rows = arguments.mlm_rows(), all_rows = arguments.all_rows();
  const at::Tensor token_rows = at::full({rows}, -1, labels.options());
  const at::Tensor ranks = at::full(positions.sizes(), -1, labels.options());
  const at::Tensor targets = at::full({all_rows}, -1, labels.options());
  const at::Tensor row_weight = at::zeros({all_rows}, labels.options().dtype(dtype));
  const at::Tensor counts = at::empty({2}, labels.options());
  int64_t* const target = targets.mutable_data_ptr<int64_t>();
  int64_t mlm_count = 0, sbo_count = 0;
  for (int64_t entry = 0; entry < batch.total; ++entry) {
    const HeadEntry found = head_entry(batch, entry);
    TORCH_CHECK_INDEX(batch.masked_positions[entry] < batch.length, "head_targets: masked_positions has ",
                      batch.masked_positions[entry], ", expected positions below L = ", batch.length);
    TORCH_CHECK_INDEX(found.target != kNoId, "head_targets: labels has ", kNoId,
                      " at a masked position, which no vocabulary has; expected an id");
    if (found.target < 0) continue;
    TORCH_CHECK_VALUE(mlm_count < rows, "head_targets: max_rows is ", rows,
                      ", but more masked positions have a label; expected an upper bound of their number");
    ranks.mutable_data_ptr<int64_t>()[entry] = mlm_count;
    token_rows.mutable_data_ptr<int64_t>()[mlm_count] = found.token;
    target[mlm_count++] = found.target;
    if (!found.has_sbo) continue;
    target[rows + entry] = found.target;
    ++sbo_count;
  }
  counts.mutable_data_ptr<int64_t>()[0] = mlm_count;
  counts.mutable_data_ptr<int64_t>()[1] = sbo_count;
  AT_DISPATCH_FLOATING_TYPES(arguments.dtype, "head_targets", [&] {
    const auto weights = head_weights<scalar_t>(mlm_count, sbo_count, value_of<scalar_t>(arguments.num_items),
                                                value_of<scalar_t>(arguments.num_sbo_items),
                                                static_cast<scalar_t>(arguments.sbo_weight));
    scalar_t* const weight = row_weight.mutable_data_ptr<scalar_t>();
    for (int64_t row = 0; row < all_rows; ++row) {
      if (target[row] >= 0) weight[row] = row < rows ? weights.mlm : weights.sbo;
    }
  });
  return {token_rows, ranks, targets, row_weight, counts};
}

HeadStatisticsOutput head_statistics_cpu(const HeadStatisticsArguments& arguments) {
  const PlainDispatch plain;
  check_head_statistics(arguments);
  const at::Tensor &nll = arguments.nll, &prediction = arguments.prediction, &targets = arguments.targets,
                   &ranks = arguments.ranks;
  const int64_t rows = arguments.mlm_rows();
  const int64_t batch = ranks.size(0), entries = ranks.size(1);
  const at::Tensor losses = nll.contiguous(), predicted = prediction.contiguous(), ids = targets.contiguous();
  const at::Tensor rank = ranks.contiguous();
  const at::Tensor statistics = at::zeros({batch, kRowSums}, nll.options()),
                   means = at::empty({kMeans}, nll.options());
  const at::Tensor mlm = at::full(ranks.sizes(), -1, ranks.options()), sbo = mlm.clone();
  const int64_t* const from = predicted.const_data_ptr<int64_t>();
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(nll.scalar_type(), "head_statistics", [&] {
    const scalar_t* const loss = losses.const_data_ptr<scalar_t>();
    HeadSums<scalar_t> all[2];
    for (int64_t b = 0; b < batch; ++b) {
      HeadSums<scalar_t> sums[2];
      for (int64_t entry = b * entries; entry < (b + 1) * entries; ++entry) {
        const int64_t row = rank.const_data_ptr<int64_t>()[entry];
        if (row >= 0 && row < rows) {
          mlm.mutable_data_ptr<int64_t>()[entry] = from[row];
          add_row(sums[0], loss[row], from[row], id[row]);
        }
        if (arguments.has_sbo) {
          sbo.mutable_data_ptr<int64_t>()[entry] = from[rows + entry];
          add_row(sums[1], loss[rows + entry], from[rows + entry], id[rows + entry]);
        }
      }
      scalar_t* const out = statistics.mutable_data_ptr<scalar_t>() + b * kRowSums;
      for (int h = 0; h < 2; ++h) {
        out[3 * h] = sums[h].nll, out[3 * h + 1] = sums[h].rows, out[3 * h + 2] = sums[h].correct;
        all[h].nll += sums[h].nll, all[h].rows += sums[h].rows, all[h].correct += sums[h].correct;
      }
    }
    scalar_t* const mean = means.mutable_data_ptr<scalar_t>();
    for (int h = 0; h < 2; ++h) {
      mean[h] = mean_of(all[h].nll, all[h].rows);
      mean[2 + h] = mean_of(all[h].correct, all[h].rows);
    }
  });
  return {statistics, means, mlm, sbo};
}

}  // namespace spanbert_ext
