// SPDX-License-Identifier: Apache-2.0
#include "common/checks.h"
#include "head_targets/head_targets.h"

namespace spanbert_ext {
namespace {

void check_ids(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, op, ": ", name, " has shape ", tensor.sizes(), ", expected ",
                    shape);
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, op, ": ", name, " has dtype ", tensor.scalar_type(),
                   ", expected int64");
}

void check_count(const char* op, const char* name, const std::optional<at::Tensor>& count,
                 at::ScalarType dtype) {
  TORCH_CHECK_VALUE(!count.has_value() || (count->numel() == 1 && count->scalar_type() == dtype), op, ": ",
                    name, " has shape ", count->sizes(), " and dtype ", count->scalar_type(),
                    ", expected one value of ", dtype);
}

}  // namespace

void check_head_targets(const HeadTargetsArguments& arguments) {
  constexpr const char* kOp = "head_targets";
  const auto& [labels, masked_positions, left_boundary, num_items, num_sbo_items, sbo_weight, dtype,
               max_rows] = arguments;
  TensorArguments(kOp, "labels", labels)
      .check("masked_positions", masked_positions)
      .check("left_boundary", left_boundary)
      .check("num_items", num_items)
      .check("num_sbo_items", num_sbo_items);
  TORCH_CHECK_VALUE(labels.dim() == 2, kOp, ": labels has shape ", labels.sizes(), ", expected [B, L]");
  TORCH_CHECK_VALUE(masked_positions.dim() == 2 && masked_positions.size(0) == labels.size(0), kOp,
                    ": masked_positions has shape ", masked_positions.sizes(), ", expected [", labels.size(0),
                    ", K]");
  check_ids(kOp, "labels", labels, labels.sizes());
  check_ids(kOp, "masked_positions", masked_positions, masked_positions.sizes());
  if (left_boundary.has_value()) {
    check_ids(kOp, "left_boundary", *left_boundary, masked_positions.sizes());
  }
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble, kOp, ": dtype is ", dtype,
                   ", expected float32 or float64");
  check_count(kOp, "num_items", num_items, dtype);
  check_count(kOp, "num_sbo_items", num_sbo_items, dtype);
  TORCH_CHECK_VALUE(max_rows.value_or(0) >= 0, kOp, ": max_rows is ", max_rows.value_or(0),
                    ", expected a number of rows");
}

void check_head_statistics(const HeadStatisticsArguments& arguments) {
  constexpr const char* kOp = "head_statistics";
  const auto& [nll, prediction, targets, ranks, has_sbo] = arguments;
  TensorArguments(kOp, "ranks", ranks)
      .check("nll", nll)
      .check("prediction", prediction)
      .check("targets", targets);
  TORCH_CHECK_VALUE(ranks.dim() == 2, kOp, ": ranks has shape ", ranks.sizes(), ", expected [B, K]");
  check_ids(kOp, "ranks", ranks, ranks.sizes());
  TORCH_CHECK_VALUE(targets.dim() == 1, kOp, ": targets has shape ", targets.sizes(), ", expected [N]");
  check_ids(kOp, "targets", targets, targets.sizes());
  check_ids(kOp, "prediction", prediction, targets.sizes());
  TORCH_CHECK_VALUE(nll.sizes() == targets.sizes(), kOp, ": nll has shape ", nll.sizes(), ", expected ",
                    targets.sizes());
  TORCH_CHECK_TYPE(nll.scalar_type() == at::kFloat || nll.scalar_type() == at::kDouble, kOp,
                   ": nll has dtype ", nll.scalar_type(), ", expected float32 or float64");
  TORCH_CHECK_VALUE(arguments.mlm_rows() >= 0, kOp, ": targets has shape ", targets.sizes(),
                    ", expected at least B * K = ", ranks.numel(), " rows with has_sbo");
}

}  // namespace spanbert_ext
