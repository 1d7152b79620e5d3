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

HeadTargetsOutput head_targets_cpu(const at::Tensor& labels, const at::Tensor& masked_positions,
                                   const std::optional<at::Tensor>& left_boundary,
                                   const std::optional<at::Tensor>& num_items,
                                   const std::optional<at::Tensor>& num_sbo_items, double sbo_weight,
                                   at::ScalarType dtype, std::optional<int64_t> max_rows) {
  const PlainDispatch plain;
  check_head_targets(labels, masked_positions, left_boundary, num_items, num_sbo_items, dtype, max_rows);
  const at::Tensor ids = labels.contiguous(), positions = masked_positions.contiguous();
  const at::Tensor left = left_boundary.has_value() ? left_boundary->contiguous() : at::Tensor();
  const HeadSlots batch{.labels = ids.const_data_ptr<int64_t>(),
                        .masked_positions = positions.const_data_ptr<int64_t>(),
                        .left_boundary = left.defined() ? left.const_data_ptr<int64_t>() : nullptr,
                        .length = labels.size(1),
                        .slots = positions.size(1),
                        .total = positions.numel()};
  const int64_t rows = std::min(batch.total, max_rows.value_or(batch.total));
  const int64_t all_rows = rows + (left.defined() ? batch.total : 0);
  const at::Tensor token_rows = at::full({rows}, -1, labels.options());
  const at::Tensor ranks = at::full(positions.sizes(), -1, labels.options());
  const at::Tensor targets = at::full({all_rows}, -1, labels.options());
  const at::Tensor row_weight = at::zeros({all_rows}, labels.options().dtype(dtype));
  const at::Tensor counts = at::empty({2}, labels.options());
  int64_t* const target = targets.mutable_data_ptr<int64_t>();
  int64_t mlm_count = 0, sbo_count = 0;
  for (int64_t slot = 0; slot < batch.total; ++slot) {
    const HeadSlot found = head_slot(batch, slot);
    TORCH_CHECK_INDEX(found.target != kNoId, "head_targets: masked_positions has ",
                      batch.masked_positions[slot], ", expected positions below L = ", batch.length);
    if (found.target < 0) continue;
    TORCH_CHECK_VALUE(mlm_count < rows, "head_targets: max_rows is ", rows,
                      ", but more masked positions have a label; expected an upper bound of their number");
    ranks.mutable_data_ptr<int64_t>()[slot] = mlm_count;
    token_rows.mutable_data_ptr<int64_t>()[mlm_count] = found.token;
    target[mlm_count++] = found.target;
    if (!found.has_sbo) continue;
    target[rows + slot] = found.target;
    ++sbo_count;
  }
  counts.mutable_data_ptr<int64_t>()[0] = mlm_count;
  counts.mutable_data_ptr<int64_t>()[1] = sbo_count;
  AT_DISPATCH_FLOATING_TYPES(dtype, "head_targets", [&] {
    const auto weights =
        head_weights<scalar_t>(mlm_count, sbo_count, value_of<scalar_t>(num_items),
                               value_of<scalar_t>(num_sbo_items), static_cast<scalar_t>(sbo_weight));
    scalar_t* const weight = row_weight.mutable_data_ptr<scalar_t>();
    for (int64_t row = 0; row < all_rows; ++row) {
      if (target[row] >= 0) weight[row] = row < rows ? weights.mlm : weights.sbo;
    }
  });
  return {token_rows, ranks, targets, row_weight, counts};
}

HeadStatisticsOutput head_statistics_cpu(const at::Tensor& nll, const at::Tensor& prediction,
                                         const at::Tensor& targets, const at::Tensor& ranks, bool has_sbo) {
  const PlainDispatch plain;
  const int64_t rows = check_head_statistics(nll, prediction, targets, ranks, has_sbo);
  const int64_t batch = ranks.size(0), slots = ranks.size(1);
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
      for (int64_t slot = b * slots; slot < (b + 1) * slots; ++slot) {
        const int64_t row = rank.const_data_ptr<int64_t>()[slot];
        if (row >= 0 && row < rows) {
          mlm.mutable_data_ptr<int64_t>()[slot] = from[row];
          add_row(sums[0], loss[row], from[row], id[row]);
        }
        if (has_sbo) {
          sbo.mutable_data_ptr<int64_t>()[slot] = from[rows + slot];
          add_row(sums[1], loss[rows + slot], from[rows + slot], id[rows + slot]);
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
