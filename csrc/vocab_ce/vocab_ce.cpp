// SPDX-License-Identifier: Apache-2.0
// CPU: the types of a call, its groups of rows, its outputs.
#include "vocab_ce/vocab_ce.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "common/dtypes.h"
#include "common/plain_dispatch.h"
#include "common/small_gemm.h"
#include "vocab_ce/vocab_ce_passes.h"

namespace spanbert_ext {
namespace {

// Live rows (target >= 0) of each group.
std::vector<std::vector<int64_t>> rows_of_groups(const at::Tensor& targets, at::IntArrayRef first_rows) {
  const at::Tensor ids = targets.contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> live(first_rows.size());
  for (size_t g = 0; g < first_rows.size(); ++g) {
    const int64_t end = g + 1 < first_rows.size() ? first_rows[g + 1] : targets.size(0);
    for (int64_t row = first_rows[g]; row < end; ++row) {
      if (id[row] >= 0) live[g].push_back(row);
    }
  }
  return live;
}

// float16 gradients are kept in units of the largest row weight: divided by the number of rows, most of them
// would round to zero. A power of two, so that multiplying by it is exact. The other dtypes have float32's
// exponents.
double gradient_unit(const at::Tensor& row_weight, const at::Tensor& targets, at::ScalarType compute_dtype) {
  if (compute_dtype != at::kHalf || row_weight.numel() == 0) return 1;
  const double largest = row_weight.masked_fill(targets.lt(0), 0).abs().max().item<double>();
  return largest > 0 && std::isfinite(largest) ? std::exp2(std::ceil(std::log2(largest))) : 1;
}

template <typename T, typename S, typename acc_t>
VocabCeOutput run(const VocabCeArguments& arguments, double grad_unit) {
  const auto live = rows_of_groups(arguments.targets, arguments.first_rows);
  int64_t count = 0;
  for (const auto& rows : live) count += static_cast<int64_t>(rows.size());
  VocabCe<T, S, acc_t> op(arguments, count, grad_unit);
  for (size_t g = 0; g < live.size(); ++g) op.add_rows(static_cast<int64_t>(g), live[g]);

  const auto& [weight, bias] = std::tie(arguments.weight, arguments.bias);
  const auto acc = op.nll.options();
  const auto dw_dtype = kept_gradient_dtype(weight.scalar_type());
  const auto db_dtype = kept_gradient_dtype(bias.has_value() ? bias->scalar_type() : weight.scalar_type());
  const at::Tensor dw =
      arguments.need_dw ? op.weight_gradient().to(dw_dtype) : at::empty({0}, acc.dtype(dw_dtype));
  const at::Tensor db = arguments.makes_db() ? op.db.to(db_dtype) : at::empty({0}, acc.dtype(db_dtype));
  return {at::full({}, op.loss, acc),
          op.nll,
          op.prediction,
          at::full({}, grad_unit, acc),
          op.dh_rows,
          op.compact_rows,
          dw,
          db};
}

}  // namespace

VocabCeOutput vocab_ce_cpu(const VocabCeArguments& arguments) {
  const PlainDispatch plain;
  check_vocab_ce(arguments);
  check_targets(arguments.targets, arguments.weight.size(0), arguments.max_rows);
  const at::ScalarType compute_dtype = arguments.compute_dtype;
  const double grad_unit = gradient_unit(arguments.row_weight, arguments.targets, compute_dtype);
  const auto call = [&]<typename T, typename S, typename acc_t>() {
    return run<T, S, acc_t>(arguments, grad_unit);
  };
  if (compute_dtype == at::kDouble) return call.template operator()<double, double, double>();
  // Rows in pairs have an even width.
  if (cpu_gemm_dtype(compute_dtype) == at::kBFloat16 && arguments.h.size(1) % 2 == 0) {
    if (arguments.weight.scalar_type() == at::kFloat)
      return call.template operator()<at::BFloat16, float, float>();
    return call.template operator()<at::BFloat16, at::BFloat16, float>();
  }
  return call.template operator()<float, float, float>();
}

}  // namespace spanbert_ext
