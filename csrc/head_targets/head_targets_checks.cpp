#include "common/dtypes.h"
#include "head_targets/head_targets.h"

namespace spanbert_ext {
namespace {

void check_ids(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& like,
               at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, op, ": ", name, " has shape ", tensor.sizes(), ", expected ",
                    shape);
  TORCH_CHECK_TYPE(tensor.scalar_type() == at::kLong, op, ": ", name, " has dtype ", tensor.scalar_type(),
                   ", expected int64");
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": ", name, " is on ", tensor.device(),
                    ", expected ", like.device());
}

}  // namespace

void check_head_targets(const at::Tensor& labels, const at::Tensor& masked_positions,
                        const std::optional<at::Tensor>& left_boundary,
                        const std::optional<at::Tensor>& num_items,
                        const std::optional<at::Tensor>& num_sbo_items, at::ScalarType dtype,
                        std::optional<int64_t> max_rows) {
  constexpr const char* kOp = "head_targets";
  TORCH_CHECK_VALUE(labels.dim() == 2, kOp, ": labels has shape ", labels.sizes(), ", expected [B, L]");
  TORCH_CHECK_VALUE(masked_positions.dim() == 2 && masked_positions.size(0) == labels.size(0), kOp,
                    ": masked_positions has shape ", masked_positions.sizes(), ", expected [", labels.size(0),
                    ", K]");
  check_ids(kOp, "labels", labels, labels, labels.sizes());
  check_ids(kOp, "masked_positions", masked_positions, labels, masked_positions.sizes());
  if (left_boundary.has_value()) {
    check_ids(kOp, "left_boundary", *left_boundary, labels, masked_positions.sizes());
  }
  TORCH_CHECK_TYPE(dtype == at::kFloat || dtype == at::kDouble, kOp, ": dtype is ", dtype,
                   ", expected float32 or float64");
  for (const auto* count : {&num_items, &num_sbo_items}) {
    if (!count->has_value()) continue;
    const char* const name = count == &num_items ? "num_items" : "num_sbo_items";
    TORCH_CHECK_VALUE((*count)->numel() == 1 && (*count)->scalar_type() == dtype, kOp, ": ", name,
                      " has shape ", (*count)->sizes(), " and dtype ", (*count)->scalar_type(),
                      ", expected one value of ", dtype);
    TORCH_CHECK_VALUE((*count)->device() == labels.device(), kOp, ": ", name, " is on ", (*count)->device(),
                      ", expected ", labels.device());
  }
  TORCH_CHECK_VALUE(max_rows.value_or(0) >= 0, kOp, ": max_rows is ", max_rows.value_or(0),
                    ", expected a number of rows");
}

int64_t check_head_statistics(const at::Tensor& nll, const at::Tensor& prediction, const at::Tensor& targets,
                              const at::Tensor& ranks, bool has_sbo) {
  constexpr const char* kOp = "head_statistics";
  TORCH_CHECK_VALUE(ranks.dim() == 2, kOp, ": ranks has shape ", ranks.sizes(), ", expected [B, K]");
  check_ids(kOp, "ranks", ranks, ranks, ranks.sizes());
  TORCH_CHECK_VALUE(targets.dim() == 1, kOp, ": targets has shape ", targets.sizes(), ", expected [N]");
  check_ids(kOp, "targets", targets, ranks, targets.sizes());
  check_ids(kOp, "prediction", prediction, ranks, targets.sizes());
  TORCH_CHECK_VALUE(nll.sizes() == targets.sizes() && nll.device() == ranks.device(), kOp, ": nll has shape ",
                    nll.sizes(), " on ", nll.device(), ", expected ", targets.sizes(), " on ",
                    ranks.device());
  TORCH_CHECK_TYPE(nll.scalar_type() == at::kFloat || nll.scalar_type() == at::kDouble, kOp,
                   ": nll has dtype ", nll.scalar_type(), ", expected float32 or float64");
  const int64_t rows = targets.size(0) - (has_sbo ? ranks.numel() : 0);
  TORCH_CHECK_VALUE(rows >= 0, kOp, ": targets has shape ", targets.sizes(),
                    ", expected at least B * K = ", ranks.numel(), " entries with has_sbo");
  return rows;
}

}  // namespace spanbert_ext
