// SPDX-License-Identifier: Apache-2.0
// CPU: what backward does with the gradients that forward made.
#include <ATen/Functions.h>

#include "common/plain_dispatch.h"
#include "vocab_ce/vocab_ce.h"

namespace spanbert_ext {

at::Tensor vocab_ce_gradient_rows_cpu(const GradientRowsArguments& arguments) {
  const PlainDispatch plain;
  check_gradient_rows(arguments);
  const auto& [dh_rows, compact_rows, scale, dtype] = arguments;
  const at::Tensor live = compact_rows.ge(0).nonzero().flatten();
  const int64_t most = compact_rows.numel() == 0 ? -1 : compact_rows.max().item<int64_t>();
  TORCH_CHECK_INDEX(most < dh_rows.size(0), "vocab_ce_gradient_rows: compact_rows has ", most,
                    ", expected rows below R = ", dh_rows.size(0));
  const at::Tensor rows = dh_rows.index_select(0, compact_rows.index_select(0, live)).to(scale.scalar_type());
  const at::Tensor out = at::zeros({compact_rows.size(0), dh_rows.size(1)}, dh_rows.options().dtype(dtype));
  return out.index_copy_(0, live, rows.mul(scale).to(dtype));
}

void vocab_ce_scale_cpu(const ScaleArguments& arguments) {
  const PlainDispatch plain;
  check_scale(arguments);
  const auto& [gradient, scale] = arguments;
  if (scale.item<double>() == 1) return;
  if (gradient.scalar_type() == scale.scalar_type()) {
    gradient.mul_(scale);
  } else {  // a loss scale of 65536 is beyond float16
    gradient.copy_(gradient.to(scale.scalar_type()).mul_(scale));
  }
}

}  // namespace spanbert_ext
