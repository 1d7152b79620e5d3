// SPDX-License-Identifier: Apache-2.0
// Backward on CUDA.
#include <ATen/ATen.h>

#include <vector>

#include "boundary_mlp/boundary_mlp.h"
#include "boundary_mlp/boundary_task.h"
#include "common/plain_dispatch.h"

namespace spanbert_ext {
namespace {

using at::Tensor;

constexpr int64_t kLeastColumns = 128;  // of a chunk of gradients: narrower products cost more than they save
constexpr int64_t kSumBlocks = 512;     // partial sums of the gradients of bias, gain and shift, at most
constexpr int64_t kLeastRowsPerBlock = 4;

// Sums that one kernel makes of all their parts at the end.
class Sums {
 public:
  explicit Sums(const BoundaryTask& task) : task_(task) {}

  // partials [parts, columns], each a contiguous row of values -> their sum, [columns] in stored(dtype).
  Tensor add(const Tensor& partials, at::ScalarType dtype) {
    const Tensor out = at::empty({partials.size(1)}, task_.options(task_.stored(dtype)));
    partials_.push_back(partials);
    TORCH_INTERNAL_ASSERT(sums_.count < kMostSums);
    sums_.sums[sums_.count++] = {.partials = partials.const_data_ptr(),
                                 .count = partials.size(0),
                                 .stride = partials.stride(0),
                                 .columns = out.size(0),
                                 .out_type = float_type(out.scalar_type()),
                                 .out = out.data_ptr()};
    return out;
  }
  void make() {
    sums_.accumulate_type = float_type(task_.accumulate);
    check_launch(kBoundaryMlp, launch_sum_partials(sums_, task_.stream));
  }

 private:
  const BoundaryTask& task_;
  SumPartials sums_{};
  std::vector<Tensor> partials_;  // alive until the kernel is launched
};

// -> parts [blocks, 3, columns] of the gradients of bias, gain and shift in the accumulate dtype. `out` may
// be undefined.
Tensor layer_backward(const BoundaryTask& task, const NormParameters& norm, const Tensor& z,
                      const Tensor& statistics, int64_t statistics_column, const Tensor& grad_out,
                      bool grad_out_is_of_y, const Tensor& grad_z, const Tensor& out) {
  const int64_t rows_per_block = std::max(kLeastRowsPerBlock, divide_up(task.rows(), kSumBlocks));
  const int64_t blocks = divide_up(task.rows(), rows_per_block);
  const Tensor sums = at::empty({blocks, 3, z.size(1)}, task.options(task.accumulate));
  check_launch(kBoundaryMlp, launch_norm_layer_backward(
                                 {.index = task.index,
                                  .columns = z.size(1),
                                  .type = float_type(z.scalar_type()),
                                  .z = z.const_data_ptr(),
                                  .bias = norm.bias.const_data_ptr(),
                                  .gain = norm.gain.const_data_ptr(),
                                  .shift = norm.shift.const_data_ptr(),
                                  .mean = statistics.select(1, statistics_column).const_data_ptr(),
                                  .rstd = statistics.select(1, statistics_column + 1).const_data_ptr(),
                                  .grad_out_type = float_type(grad_out.scalar_type()),
                                  .grad_out = grad_out.const_data_ptr(),
                                  .grad_out_is_of_y = grad_out_is_of_y,
                                  .grad_z = grad_z.data_ptr(),
                                  .out = out.defined() ? out.data_ptr() : nullptr,
                                  .sums = sums.data_ptr(),
                                  .rows_per_block = rows_per_block},
                                 task.stream));
  return sums;
}

// The gradient of weight1 in the accumulate dtype, rows as long as the operand's.
Tensor first_linear_backward_weight(const BoundaryTask& task, const Tensor& grad_z1) {
  const Tensor grad = at::empty({task.sizes.inner, operand_columns(task.sizes.input_columns())},
                                task.options(task.accumulate));
  if (task.rows() == 0) grad.zero_();
  for_each_input_chunk(task, [&](const Tensor& inputs, int64_t first) {
    multiply_cuda(grad, grad_z1.narrow(0, first, inputs.size(0)).t(), inputs, /*accumulate=*/first > 0);
  });
  return grad;
}

// -> parts [groups, S * E] of the sums of grad_z1 by slot.
Tensor sum_by_slot(const BoundaryTask& task, const Tensor& grad_z1) {
  const int64_t groups = divide_up(task.rows(), kSlotRows);
  const Tensor sums = at::empty({groups, task.sizes.slots * task.sizes.inner}, task.options(task.accumulate));
  check_launch(kBoundaryMlp, launch_sum_by_slot({.index = task.index,
                                                 .columns = task.sizes.inner,
                                                 .type = float_type(task.compute),
                                                 .rows = grad_z1.const_data_ptr(),
                                                 .sums = sums.data_ptr()},
                                                task.stream));
  return sums;
}

// The gradient of x from grad_z1 [rows, E], where that is defined, and from the rows handed out.
Tensor backward_x(const BoundaryTask& task, const Tensor& grad_z1, const Tensor& weight1,
                  const std::optional<Tensor>& grad_rows) {
  const int64_t hidden = task.sizes.hidden, tokens = task.sizes.tokens();
  BoundaryIndex boundaries = task.index;
  if (!grad_z1.defined()) boundaries.capacity = 0;
  TokenIndex handed_out = task.handed_out;
  if (!grad_rows) handed_out.rows = 0;
  const Tensor of_rows = grad_rows ? grad_rows->contiguous() : Tensor();
  const Tensor grad_x = at::empty(task.x.sizes(), task.options(task.x.scalar_type()));
  if (grad_x.numel() == 0) return grad_x;
  const Tensor ranges = at::zeros({3, tokens, 2}, task.options(at::kLong));
  auto* const range = static_cast<RowRange*>(ranges.data_ptr());
  const TokenRows token_rows{.left = range, .right = range + tokens, .own = range + 2 * tokens};
  check_launch(kBoundaryMlp,
               launch_find_token_rows(
                   {.boundaries = boundaries, .handed_out = handed_out, .ranges = token_rows}, task.stream));

  // Chunks of columns, not of rows: a token's sum is then complete within one.
  const int64_t rows = boundaries.capacity;
  const int64_t most = std::max(kLeastColumns, hidden * kChunkRows / std::max<int64_t>(rows, 1));
  const int64_t chunk = std::min(hidden, round_up(chunk_rows(hidden, most), kOperandValues));
  for (int64_t first = 0; first < hidden; first += chunk) {
    const int64_t columns = std::min(chunk, hidden - first);
    const Tensor grads = at::empty({rows, 2 * columns}, task.options(task.accumulate));
    if (rows > 0 && columns == hidden) {
      multiply_cuda(grads, grad_z1, weight1.narrow(1, 0, 2 * hidden));
    } else if (rows > 0) {
      for (const int64_t side : {0, 1}) {
        multiply_cuda(grads.narrow(1, side * columns, columns), grad_z1,
                      weight1.narrow(1, side * hidden + first, columns));
      }
    }
    check_launch(kBoundaryMlp,
                 launch_sum_into_tokens({.boundaries = boundaries,
                                         .handed_out = handed_out,
                                         .ranges = token_rows,
                                         .hidden = hidden,
                                         .first_column = first,
                                         .columns = columns,
                                         .accumulate_type = float_type(task.accumulate),
                                         .grads = grads.const_data_ptr(),
                                         .x_type = float_type(grad_x.scalar_type()),
                                         .grad_rows = of_rows.defined() ? of_rows.const_data_ptr() : nullptr,
                                         .grad_x = grad_x.data_ptr()},
                                        task.stream));
  }
  return grad_x;
}

// Fills `grads` but for x's; -> grad_z1 [rows, E].
Tensor backward_layers(const BoundaryTask& task, const BoundaryInputs& inputs, const BoundarySaved& saved,
                       const Tensor& grad_y, bool need_parameters, BoundaryGradients& grads) {
  const BoundarySizes& sizes = task.sizes;
  const auto empty = [&](int64_t columns, at::ScalarType dtype) {
    return at::empty({task.rows(), columns}, task.options(dtype));
  };
  const Tensor grad_z2 = empty(sizes.outer, task.compute);
  const Tensor sums2 =
      layer_backward(task, norm_parameters(task, inputs.bias2, inputs.norm2_weight, inputs.norm2_bias),
                     saved.z2.contiguous(), saved.statistics.contiguous(), 2, grad_y.contiguous(),
                     /*grad_out_is_of_y=*/true, grad_z2, Tensor());
  const Tensor grad_h = empty(sizes.inner, task.accumulate), grad_z1 = empty(sizes.inner, task.compute);
  multiply_cuda(grad_h, grad_z2, operand_of(saved.weight2_operand, inputs.weight2));
  const Tensor h = need_parameters ? empty(sizes.inner, task.compute) : Tensor();
  const Tensor sums1 =
      layer_backward(task, norm_parameters(task, inputs.bias1, inputs.norm1_weight, inputs.norm1_bias),
                     saved.z1.contiguous(), saved.statistics.contiguous(), 0, grad_h,
                     /*grad_out_is_of_y=*/false, grad_z1, h);
  if (!need_parameters) return grad_z1;

  const Tensor grad_weight2 = at::empty(inputs.weight2.sizes(), task.options(task.accumulate));
  multiply_cuda(grad_weight2, grad_z2.t(), h);
  const Tensor grad_weight1 = first_linear_backward_weight(task, grad_z1).narrow(1, 0, sizes.input_columns());
  Sums sums(task);
  const auto vector = [&](const Tensor& parts, int64_t i, const Tensor& parameter) {
    return sums.add(parts.select(1, i), parameter.scalar_type());
  };
  const Tensor grad_bias1 = vector(sums1, 0, inputs.bias1),
               grad_gain1 = vector(sums1, 1, inputs.norm1_weight),
               grad_shift1 = vector(sums1, 2, inputs.norm1_bias), grad_bias2 = vector(sums2, 0, inputs.bias2),
               grad_gain2 = vector(sums2, 1, inputs.norm2_weight),
               grad_shift2 = vector(sums2, 2, inputs.norm2_bias);
  const Tensor by_slot =
      sums.add(sum_by_slot(task, grad_z1), task.accumulate).view({sizes.slots, sizes.inner});
  sums.make();
  const Tensor position_weight =
      inputs.weight1.narrow(1, 2 * sizes.hidden, sizes.position_columns).to(task.accumulate);
  const auto as = [](const Tensor& grad, const Tensor& parameter) {
    return grad.to(parameter.scalar_type()).contiguous();
  };
  grads = {std::get<0>(grads),
           as(at::mm(by_slot, position_weight), inputs.positions),
           as(grad_weight1, inputs.weight1),
           as(grad_bias1, inputs.bias1),
           as(grad_gain1, inputs.norm1_weight),
           as(grad_shift1, inputs.norm1_bias),
           as(grad_weight2, inputs.weight2),
           as(grad_bias2, inputs.bias2),
           as(grad_gain2, inputs.norm2_weight),
           as(grad_shift2, inputs.norm2_bias)};
  return grad_z1;
}

}  // namespace

BoundaryGradients boundary_mlp_backward_cuda(const BoundaryMlpBackwardArguments& request) {
  const PlainDispatch plain;
  const BoundaryInputs inputs = request.inputs();
  const BoundarySaved& saved = request.saved;
  const BoundarySizes sizes = check_inputs(inputs);
  check_saved(request, sizes);
  const auto nothing = [](const Tensor& input) { return at::empty({0}, input.options()); };
  BoundaryGradients grads{
      nothing(inputs.x),         nothing(inputs.positions),    nothing(inputs.weight1),
      nothing(inputs.bias1),     nothing(inputs.norm1_weight), nothing(inputs.norm1_bias),
      nothing(inputs.weight2),   nothing(inputs.bias2),        nothing(inputs.norm2_weight),
      nothing(inputs.norm2_bias)};
  if (!request.need_x && !request.need_parameters) return grads;

  const CudaScope scope(inputs.x);
  const BoundaryTask task = make_task(inputs, sizes, saved.kept.contiguous(), saved.count, scope.stream());
  const Tensor grad_z1 =
      request.grad_y ? backward_layers(task, inputs, saved, *request.grad_y, request.need_parameters, grads)
                     : Tensor();
  if (request.need_x) {
    std::get<0>(grads) =
        backward_x(task, grad_z1, operand_of(saved.weight1_operand, inputs.weight1), request.grad_rows);
  }
  return grads;
}

}  // namespace spanbert_ext
