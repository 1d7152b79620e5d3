// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>

#include "common/checks.h"
#include "common/dtypes.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {
namespace {

void check_scale_value(const char* op, const at::Tensor& scale, at::ScalarType gradient) {
  const at::ScalarType accumulate = accumulation_dtype(gradient);
  TORCH_CHECK_VALUE(scale.dim() == 0 && scale.scalar_type() == accumulate, op, ": scale has shape ",
                    scale.sizes(), " and dtype ", scale.scalar_type(), ", expected [] and ", accumulate);
}

}  // namespace

void check_vocab_ce(const VocabCeArguments& arguments) {
  const auto& [h, weight, bias, first_rows, targets, row_weight, compute_dtype, label_smoothing, max_rows,
               need_dh, need_dw, need_db] = arguments;
  TensorArguments("vocab_ce", "h", h)
      .check("weight", weight)
      .check("bias", bias)
      .check("targets", targets)
      .check("row_weight", row_weight);
  TORCH_CHECK_VALUE(h.dim() == 2, "vocab_ce: h has shape ", h.sizes(), ", expected [N, D]");
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(0) > 0, "vocab_ce: weight has shape ", weight.sizes(),
                    ", expected [V, D] with V > 0");
  TORCH_CHECK_VALUE(weight.size(1) == h.size(1), "vocab_ce: weight has shape ", weight.sizes(),
                    " and h has shape ", h.sizes(), ", expected the same D (last dimension) in both");
  check_compute_dtype("vocab_ce", "h", h.scalar_type(), compute_dtype);
  check_compute_dtype("vocab_ce", "weight", weight.scalar_type(), compute_dtype);
  TORCH_CHECK_VALUE(!first_rows.empty() && first_rows[0] == 0, "vocab_ce: first_rows is ",
                    at::IntArrayRef(first_rows), ", expected the first row of each group, starting with 0");
  for (size_t g = 0; g < first_rows.size(); ++g) {
    TORCH_CHECK_VALUE(first_rows[g] <= h.size(0) && (g == 0 || first_rows[g] >= first_rows[g - 1]),
                      "vocab_ce: first_rows is ", at::IntArrayRef(first_rows),
                      ", expected ascending rows of h, which has ", h.size(0));
  }
  if (bias.has_value()) {
    TORCH_CHECK_VALUE(bias->dim() == 2 && bias->size(0) == static_cast<int64_t>(first_rows.size()) &&
                          bias->size(1) == weight.size(0),
                      "vocab_ce: bias has shape ", bias->sizes(), ", expected [", first_rows.size(), ", ",
                      weight.size(0), "]: one row of V per entry of first_rows");
    check_compute_dtype("vocab_ce", "bias", bias->scalar_type(), compute_dtype);
  }
  TORCH_CHECK_VALUE(targets.dim() == 1 && targets.size(0) == h.size(0), "vocab_ce: targets has shape ",
                    targets.sizes(), ", expected [", h.size(0), "], one id per row of h");
  TORCH_CHECK_TYPE(targets.scalar_type() == at::kLong, "vocab_ce: targets has dtype ", targets.scalar_type(),
                   ", expected int64");
  TORCH_CHECK_VALUE(row_weight.dim() == 1 && row_weight.size(0) == h.size(0),
                    "vocab_ce: row_weight has shape ", row_weight.sizes(), ", expected [", h.size(0),
                    "], one weight per row of h");
  const at::ScalarType accumulate = accumulation_dtype(compute_dtype);
  TORCH_CHECK_TYPE(row_weight.scalar_type() == accumulate, "vocab_ce: row_weight has dtype ",
                   row_weight.scalar_type(), ", expected ", accumulate, " when computing in ", compute_dtype);
  TORCH_CHECK_VALUE(label_smoothing >= 0.0 && label_smoothing < 1.0, "vocab_ce: label_smoothing is ",
                    label_smoothing, ", expected 0 <= label_smoothing < 1");
  TORCH_CHECK_VALUE(max_rows.value_or(0) >= 0, "vocab_ce: max_rows is ", max_rows.value_or(0),
                    ", expected a number of rows");
}

void check_gradient_rows(const GradientRowsArguments& arguments) {
  constexpr const char* kOp = "vocab_ce_gradient_rows";
  const auto& [dh_rows, compact_rows, scale, dtype] = arguments;
  TensorArguments(kOp, "dh_rows", dh_rows).check("compact_rows", compact_rows).check("scale", scale);
  TORCH_CHECK_VALUE(dh_rows.dim() == 2, kOp, ": dh_rows has shape ", dh_rows.sizes(), ", expected [R, D]");
  check_compute_dtype(kOp, "dh_rows", dh_rows.scalar_type(), dtype);
  TORCH_CHECK_VALUE(compact_rows.dim() == 1, kOp, ": compact_rows has shape ", compact_rows.sizes(),
                    ", expected [N]");
  TORCH_CHECK_TYPE(compact_rows.scalar_type() == at::kLong, kOp, ": compact_rows has dtype ",
                   compact_rows.scalar_type(), ", expected int64");
  check_scale_value(kOp, scale, dh_rows.scalar_type());
}

void check_scale(const ScaleArguments& arguments) {
  constexpr const char* kOp = "vocab_ce_scale_";
  const auto& [gradient, scale] = arguments;
  TensorArguments(kOp, "gradient", gradient).check("scale", scale);
  check_float(kOp, "gradient", gradient.scalar_type());
  check_scale_value(kOp, scale, gradient.scalar_type());
  TORCH_CHECK_VALUE(gradient.is_contiguous(), kOp, ": gradient has strides ", gradient.strides(),
                    ", expected a contiguous tensor");
}

void check_targets(const at::Tensor& targets, int64_t vocab, std::optional<int64_t> max_rows) {
  const at::Tensor ids = targets.contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  int64_t live = 0;
  for (int64_t row = 0; row < ids.size(0); ++row) {
    TORCH_CHECK_INDEX(id[row] < vocab, "vocab_ce: targets[", row, "] is ", id[row],
                      ", expected an id below V = ", vocab, " (or a negative one, which is ignored)");
    live += id[row] >= 0 ? 1 : 0;
  }
  TORCH_CHECK_VALUE(live <= max_rows.value_or(live), "vocab_ce: max_rows is ", max_rows.value_or(0), ", but ",
                    live, " targets are not negative; expected an upper bound of their number");
}

}  // namespace spanbert_ext
