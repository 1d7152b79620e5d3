// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>

#include "boundary_mlp/boundary_task.h"
#include "common/dtypes.h"

namespace spanbert_ext {

using at::Tensor;

BoundaryTask make_task(const BoundaryInputs& inputs, const BoundarySizes& sizes, const Tensor& kept,
                       const Tensor& count, cudaStream_t stream) {
  BoundaryTask task{.sizes = sizes,
                    .compute = inputs.compute_dtype,
                    .accumulate = accumulation_dtype(inputs.compute_dtype),
                    .x = inputs.x.stride(2) == 1 ? inputs.x : inputs.x.contiguous(),
                    .positions = {},
                    .masked_positions = index_tensor("masked_positions", inputs.masked_positions, sizes),
                    .left_boundary = index_tensor("left_boundary", inputs.left_boundary, sizes),
                    .right_boundary = index_tensor("right_boundary", inputs.right_boundary, sizes),
                    .kept = kept,
                    .count = count,
                    .token_rows = token_row_tensor(inputs),
                    .index = {},
                    .handed_out = {},
                    .stream = stream};
  task.positions = inputs.positions.to(task.stored(inputs.positions.scalar_type())).contiguous();
  task.index = {.masked_positions = task.masked_positions.const_data_ptr<int64_t>(),
                .left_boundary = task.left_boundary.const_data_ptr<int64_t>(),
                .right_boundary = task.right_boundary.const_data_ptr<int64_t>(),
                .rows = task.kept.const_data_ptr<int64_t>(),
                .count = task.count.const_data_ptr<int64_t>(),
                .capacity = row_capacity(inputs.max_rows, sizes),
                .total = sizes.total(),
                .targets = sizes.targets,
                .length = sizes.length,
                .slots = sizes.slots};
  task.handed_out = {
      .token = task.token_rows.const_data_ptr<int64_t>(), .rows = sizes.token_rows, .tokens = sizes.tokens()};
  return task;
}

Tokens BoundaryTask::tokens() const {
  return {.type = float_type(x.scalar_type()),
          .x = x.const_data_ptr(),
          .batch_stride = x.stride(0),
          .token_stride = x.stride(1),
          .length = sizes.length,
          .hidden = sizes.hidden};
}

NormParameters norm_parameters(const BoundaryTask& task, const Tensor& bias, const Tensor& gain,
                               const Tensor& shift) {
  const auto vector = [&](const Tensor& t) { return t.to(task.accumulate).contiguous(); };
  return {vector(bias), vector(gain), vector(shift)};
}

void gather_inputs(const BoundaryTask& task, int64_t first, const Tensor& out) {
  check_launch(kBoundaryMlp,
               launch_gather_boundaries({.index = task.index,
                                         .first = first,
                                         .rows = out.size(0),
                                         .tokens = task.tokens(),
                                         .positions_type = float_type(task.positions.scalar_type()),
                                         .positions = task.positions.const_data_ptr(),
                                         .position_columns = task.sizes.position_columns,
                                         .type = float_type(task.compute),
                                         .out = out.data_ptr(),
                                         .pitch = out.size(1)},
                                        task.stream));
}

}  // namespace spanbert_ext
