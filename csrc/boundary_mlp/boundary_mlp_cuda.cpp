// SPDX-License-Identifier: Apache-2.0
// Forward on CUDA.
#include <ATen/ATen.h>

#include "boundary_mlp/boundary_mlp.h"
#include "boundary_mlp/boundary_task.h"
#include "common/compact_rows.h"
#include "common/plain_dispatch.h"

namespace spanbert_ext {
namespace {

using at::Tensor;

void layer_forward(const BoundaryTask& task, const NormParameters& norm, const Tensor& z,
                   const Tensor& statistics, int64_t statistics_column, double eps, const Tensor& out,
                   bool out_is_y) {
  check_launch(kBoundaryMlp,
               launch_norm_layer_forward({.index = task.index,
                                          .columns = z.size(1),
                                          .eps = eps,
                                          .type = float_type(z.scalar_type()),
                                          .z = z.const_data_ptr(),
                                          .bias = norm.bias.const_data_ptr(),
                                          .gain = norm.gain.const_data_ptr(),
                                          .shift = norm.shift.const_data_ptr(),
                                          .mean = statistics.select(1, statistics_column).data_ptr(),
                                          .rstd = statistics.select(1, statistics_column + 1).data_ptr(),
                                          .out_type = float_type(out.scalar_type()),
                                          .out = out.data_ptr(),
                                          .out_is_y = out_is_y},
                                         task.stream));
}

}  // namespace

BoundaryOutputs boundary_mlp_cuda(const BoundaryMlpArguments& arguments) {
  const PlainDispatch plain;
  const BoundaryInputs inputs = arguments.inputs();
  const double eps = arguments.eps;
  const BoundarySizes sizes = check_inputs(inputs);
  if (debug_checks()) {
    live_rows(inputs, sizes);
    live_token_rows(inputs, sizes);
  }
  const CudaScope scope(inputs.x);
  const int64_t total = sizes.total();
  const auto index = inputs.x.options().dtype(at::kLong);
  const Tensor kept = at::full({total}, -1, index), count = at::empty({1}, index);
  const BoundaryTask task = make_task(inputs, sizes, kept, count, scope.stream());
  check_launch(kBoundaryMlp, launch_compact_rows({.values = task.index.left_boundary,  // as is_kept
                                                  .others = task.index.right_boundary,
                                                  .rows = total,
                                                  .kept = kept.mutable_data_ptr<int64_t>(),
                                                  .count = count.mutable_data_ptr<int64_t>()},
                                                 task.stream));
  const Tensor taken = at::empty({sizes.token_rows, sizes.hidden}, inputs.x.options());
  check_launch(kBoundaryMlp, launch_gather_tokens(
                                 {.index = task.handed_out, .tokens = task.tokens(), .out = taken.data_ptr()},
                                 task.stream));

  const int64_t rows = task.rows();
  const Tensor y = at::empty({sizes.batch, sizes.targets, sizes.outer}, inputs.x.options());
  const Tensor z1 = at::empty({total, sizes.inner}, task.options(task.compute));
  const Tensor z2 = at::empty({total, sizes.outer}, task.options(task.compute));
  const Tensor statistics = at::empty({total, 4}, task.options(task.accumulate));
  if (rows < total) {  // what no kernel writes
    for (const Tensor& saved : {z1, z2, statistics}) saved.narrow(0, rows, total - rows).zero_();
  }
  const Tensor weight1 = make_operand(inputs.weight1, operand_columns(sizes.input_columns()), task.compute);
  const Tensor weight2 = make_operand(inputs.weight2, sizes.inner, task.compute);
  const BoundaryOutputs outputs{y, taken, z1, z2, statistics, kept, count, weight1, weight2};
  if (total == 0) return outputs;

  for_each_input_chunk(task, [&](const Tensor& chunk, int64_t first) {
    multiply_cuda(z1.narrow(0, first, chunk.size(0)), chunk, operand_of(weight1, inputs.weight1).t());
  });
  const Tensor h = at::empty({rows, sizes.inner}, task.options(task.compute));
  layer_forward(task, norm_parameters(task, inputs.bias1, inputs.norm1_weight, inputs.norm1_bias), z1,
                statistics, 0, eps, h, /*out_is_y=*/false);
  multiply_cuda(z2.narrow(0, 0, rows), h, operand_of(weight2, inputs.weight2).t());
  layer_forward(task, norm_parameters(task, inputs.bias2, inputs.norm2_weight, inputs.norm2_bias), z2,
                statistics, 2, eps, y, /*out_is_y=*/true);
  return outputs;
}

}  // namespace spanbert_ext
