#include "boundary_mlp/boundary_mlp_cuda.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "boundary_mlp/boundary_mlp.h"
#include "boundary_mlp/boundary_rows.h"
#include "common/chunks.h"
#include "common/compact_rows.h"
#include "common/cuda_host.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"

namespace spanbert_ext {
namespace {

using at::ScalarType;
using at::Tensor;

constexpr const char* kOp = "boundary_mlp";
// Boundaries are gathered, and their gradients made, for this many rows of 2H columns at a time: 25 MB in
// float32 at H = 768.
constexpr int64_t kChunkRows = 4096;
constexpr int64_t kLeastColumns = 128;  // of a chunk of gradients: narrower products cost more than they save
constexpr int64_t kPitchValues = 8;     // rows of GEMM operands begin at multiples of 16 bytes
constexpr int64_t kSumBlocks = 512;     // partial sums of the gradients of bias, gain and shift, at most
constexpr int64_t kLeastRowsPerBlock = 4;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// The compact rows and what both operators read of their arguments.
struct Task {
  BoundarySizes sizes;
  ScalarType compute, accumulate;
  Tensor x;                                                             // [B, L, H], H contiguous
  Tensor masked_positions, left_boundary, right_boundary, kept, count;  // own the memory of `index`
  BoundaryIndex index;
  cudaStream_t stream;

  int64_t rows() const { return index.capacity; }
  at::TensorOptions options(ScalarType dtype) const { return x.options().dtype(dtype); }
};

Task make_task(const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
               const Tensor& right_boundary, const BoundarySizes& sizes, ScalarType compute,
               std::optional<int64_t> max_rows, cudaStream_t stream) {
  const int64_t total = sizes.batch * sizes.targets;
  const auto index = x.options().dtype(at::kLong);
  Task task{.sizes = sizes,
            .compute = compute,
            .accumulate = accumulation_dtype(compute),
            .x = x.stride(2) == 1 ? x : x.contiguous(),
            .masked_positions = index_tensor("masked_positions", masked_positions, sizes),
            .left_boundary = index_tensor("left_boundary", left_boundary, sizes),
            .right_boundary = index_tensor("right_boundary", right_boundary, sizes),
            .kept = at::empty({total}, index),
            .count = at::empty({1}, index),
            .index = {},
            .stream = stream};
  if (debug_checks()) {
    live_rows(task.masked_positions.cpu(), task.left_boundary.cpu(), task.right_boundary.cpu(), max_rows,
              sizes);
  }
  task.index = {.masked_positions = task.masked_positions.const_data_ptr<int64_t>(),
                .left_boundary = task.left_boundary.const_data_ptr<int64_t>(),
                .right_boundary = task.right_boundary.const_data_ptr<int64_t>(),
                .rows = task.kept.const_data_ptr<int64_t>(),
                .count = task.count.const_data_ptr<int64_t>(),
                .capacity = row_capacity(max_rows, sizes),
                .total = total,
                .targets = sizes.targets,
                .length = sizes.length,
                .slots = sizes.slots};
  // A row with one of two boundaries is kept: it is a mistake that y must show.
  check_launch(kOp, launch_compact_rows({.values = task.index.left_boundary,
                                         .others = task.index.right_boundary,
                                         .rows = total,
                                         .kept = task.kept.data_ptr<int64_t>(),
                                         .count = task.count.data_ptr<int64_t>()},
                                        stream));
  return task;
}

// The vectors of one layer, in the accumulate dtype.
struct NormParameters {
  Tensor bias, gain, shift;
};

NormParameters norm_parameters(const Task& task, const Tensor& bias, const Tensor& gain,
                               const Tensor& shift) {
  const auto vector = [&](const Tensor& t) { return t.to(task.accumulate).contiguous(); };
  return {vector(bias), vector(gain), vector(shift)};
}

int64_t input_pitch(const BoundarySizes& sizes) {
  return round_up(2 * sizes.hidden + sizes.slots, kPitchValues);
}

// Calls body(inputs, first) with the first Linear's input [chunk, pitch] of the compact rows from `first` on.
template <typename Body>
void for_each_input_chunk(const Task& task, const Body& body) {
  const int64_t pitch = input_pitch(task.sizes), chunk = chunk_rows(task.rows(), kChunkRows);
  const Tensor buffer = at::empty({chunk, pitch}, task.options(task.compute));
  for (int64_t first = 0; first < task.rows(); first += chunk) {
    const Tensor inputs = buffer.narrow(0, 0, std::min(chunk, task.rows() - first));
    check_launch(kOp, launch_gather_boundaries({.index = task.index,
                                                .first = first,
                                                .rows = inputs.size(0),
                                                .hidden = task.sizes.hidden,
                                                .x_type = float_type(task.x.scalar_type()),
                                                .x = task.x.const_data_ptr(),
                                                .batch_stride = task.x.stride(0),
                                                .token_stride = task.x.stride(1),
                                                .type = float_type(task.compute),
                                                .out = inputs.data_ptr(),
                                                .pitch = pitch},
                                               task.stream));
    body(inputs, first);
  }
}

Tensor boundary_part(const Task& task, const Tensor& weight1) {  // [E, 2H]
  return weight1.narrow(1, 0, 2 * task.sizes.hidden);
}

Tensor position_part(const Task& task, const Tensor& weight1) {  // [E, P]
  return weight1.narrow(1, 2 * task.sizes.hidden, task.sizes.position_columns).to(task.accumulate);
}

// [W_left | W_right | positions @ W_position^T | zeros], [E, pitch]
Tensor input_weight(const Task& task, const Tensor& positions, const Tensor& weight1) {
  const int64_t columns = 2 * task.sizes.hidden;
  const Tensor weight = at::zeros({task.sizes.inner, input_pitch(task.sizes)}, task.options(task.compute));
  weight.narrow(1, 0, columns).copy_(boundary_part(task, weight1));
  weight.narrow(1, columns, task.sizes.slots)
      .copy_(at::mm(position_part(task, weight1), positions.to(task.accumulate).t()));
  return weight;
}

void layer_forward(const Task& task, const NormParameters& norm, const Tensor& z, const Tensor& statistics,
                   int64_t statistics_column, double eps, const Tensor& out, bool out_is_y) {
  check_launch(kOp, launch_norm_layer_forward({.index = task.index,
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

// -> gradients of bias, gain and shift, [3, columns] in the accumulate dtype. `out` may be undefined.
Tensor layer_backward(const Task& task, const NormParameters& norm, const Tensor& z, const Tensor& statistics,
                      int64_t statistics_column, const Tensor& grad_out, bool grad_out_is_of_y,
                      const Tensor& grad_z, const Tensor& out) {
  const int64_t rows_per_block = std::max(kLeastRowsPerBlock, (task.rows() + kSumBlocks - 1) / kSumBlocks);
  const int64_t blocks = (task.rows() + rows_per_block - 1) / rows_per_block;
  const Tensor sums = at::empty({blocks, 3, z.size(1)}, task.options(task.accumulate));
  check_launch(
      kOp, launch_norm_layer_backward({.index = task.index,
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
  return sums.sum(0);
}

// The first Linear's gradients in the accumulate dtype: of positions and of weight1.
std::tuple<Tensor, Tensor> first_linear_backward_parameters(const Task& task, const Tensor& grad_z1,
                                                            const Tensor& positions, const Tensor& weight1) {
  const int64_t columns = 2 * task.sizes.hidden;
  const Tensor grad = at::zeros({task.sizes.inner, input_pitch(task.sizes)}, task.options(task.accumulate));
  for_each_input_chunk(task, [&](const Tensor& inputs, int64_t first) {
    multiply_cuda(grad, grad_z1.narrow(0, first, inputs.size(0)).t(), inputs, /*accumulate=*/true);
  });
  const Tensor by_slot = grad.narrow(1, columns, task.sizes.slots);  // [E, S]
  return {at::mm(by_slot.t(), position_part(task, weight1)),
          at::cat({grad.narrow(1, 0, columns), at::mm(by_slot, positions.to(task.accumulate))}, 1)};
}

// Chunks of columns, not of rows: a token's sum is then complete within one.
void first_linear_backward_x(const Task& task, const Tensor& grad_z1, const Tensor& weight1,
                             const Tensor& grad_x) {
  const int64_t hidden = task.sizes.hidden, tokens = task.sizes.batch * task.sizes.length;
  const int64_t most = std::max(kLeastColumns, hidden * kChunkRows / std::max<int64_t>(task.rows(), 1));
  const int64_t chunk = round_up(chunk_rows(hidden, most), kPitchValues);
  const Tensor weight = boundary_part(task, weight1).to(task.compute);
  const Tensor token_rows = at::zeros({2, tokens, 2}, task.options(at::kLong));
  auto* const left = static_cast<TokenRows*>(token_rows.data_ptr());
  check_launch(
      kOp, launch_find_token_rows({.index = task.index, .left = left, .right = left + tokens}, task.stream));
  for (int64_t first = 0; first < hidden; first += chunk) {
    const int64_t columns = std::min(chunk, hidden - first);
    const Tensor grads = at::empty({task.rows(), 2 * columns}, task.options(task.accumulate));
    for (const int64_t side : {0, 1}) {
      multiply_cuda(grads.narrow(1, side * columns, columns), grad_z1,
                    weight.narrow(1, side * hidden + first, columns));
    }
    check_launch(kOp, launch_sum_into_tokens({.index = task.index,
                                              .left = left,
                                              .right = left + tokens,
                                              .tokens = tokens,
                                              .hidden = hidden,
                                              .first_column = first,
                                              .columns = columns,
                                              .accumulate_type = float_type(task.accumulate),
                                              .grads = grads.const_data_ptr(),
                                              .x_type = float_type(grad_x.scalar_type()),
                                              .grad_x = grad_x.data_ptr()},
                                             task.stream));
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> boundary_mlp_cuda(
    const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, double eps, ScalarType compute_dtype,
    std::optional<int64_t> max_rows) {
  const PlainDispatch plain;
  const BoundarySizes sizes = check_inputs(x, masked_positions, positions, weight1, weight2);
  check_compute_dtype(kOp, "x", x.scalar_type(), compute_dtype);
  check_vectors(sizes, bias1, norm1_weight, norm1_bias, bias2, norm2_weight, norm2_bias);
  const CudaScope scope(x);
  const Task task = make_task(x, masked_positions, left_boundary, right_boundary, sizes, compute_dtype,
                              max_rows, scope.stream());
  const int64_t total = task.index.total, rows = task.rows();

  const Tensor y = at::zeros({sizes.batch, sizes.targets, sizes.outer}, x.options());
  const Tensor z1 = at::empty({total, sizes.inner}, task.options(compute_dtype));
  const Tensor z2 = at::empty({total, sizes.outer}, task.options(compute_dtype));
  const Tensor statistics = at::zeros({total, 4}, task.options(task.accumulate));
  z1.narrow(0, rows, total - rows).zero_();
  z2.narrow(0, rows, total - rows).zero_();
  if (total == 0) return {y, z1, z2, statistics};

  const Tensor weight = input_weight(task, positions, weight1);
  for_each_input_chunk(task, [&](const Tensor& inputs, int64_t first) {
    multiply_cuda(z1.narrow(0, first, inputs.size(0)), inputs, weight.t());
  });
  const Tensor h = at::empty({rows, sizes.inner}, task.options(compute_dtype));
  layer_forward(task, norm_parameters(task, bias1, norm1_weight, norm1_bias), z1, statistics, 0, eps, h,
                /*out_is_y=*/false);
  multiply_cuda(z2.narrow(0, 0, rows), h, weight2.to(compute_dtype).t());
  layer_forward(task, norm_parameters(task, bias2, norm2_weight, norm2_bias), z2, statistics, 2, eps, y,
                /*out_is_y=*/true);
  return {y, z1, z2, statistics};
}

BoundaryGradients boundary_mlp_backward_cuda(
    const Tensor& grad_y, const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& z1, const Tensor& z2,
    const Tensor& statistics, ScalarType compute_dtype, bool need_x, bool need_parameters,
    std::optional<int64_t> max_rows) {
  const PlainDispatch plain;
  const BoundarySizes sizes = check_inputs(x, masked_positions, positions, weight1, weight2);
  check_compute_dtype(kOp, "x", x.scalar_type(), compute_dtype);
  check_vectors(sizes, bias1, norm1_weight, norm1_bias, bias2, norm2_weight, norm2_bias);
  check_saved(sizes, x.scalar_type(), compute_dtype, accumulation_dtype(compute_dtype), grad_y, z1, z2,
              statistics);
  const auto nothing = [](const Tensor& input) { return at::empty({0}, input.options()); };
  BoundaryGradients grads{
      nothing(x),          nothing(positions), nothing(weight1), nothing(bias1),        nothing(norm1_weight),
      nothing(norm1_bias), nothing(weight2),   nothing(bias2),   nothing(norm2_weight), nothing(norm2_bias)};
  if (!need_x && !need_parameters) return grads;

  const CudaScope scope(x);
  const Task task = make_task(x, masked_positions, left_boundary, right_boundary, sizes, compute_dtype,
                              max_rows, scope.stream());
  const auto empty = [&](int64_t columns) {
    return at::empty({task.rows(), columns}, task.options(compute_dtype));
  };
  const Tensor grad_z2 = empty(sizes.outer);
  const Tensor sums2 =
      layer_backward(task, norm_parameters(task, bias2, norm2_weight, norm2_bias), z2.contiguous(),
                     statistics, 2, grad_y.contiguous(), /*grad_out_is_of_y=*/true, grad_z2, Tensor());
  const Tensor grad_h = at::empty({task.rows(), sizes.inner}, task.options(task.accumulate));
  const Tensor grad_z1 = empty(sizes.inner);
  multiply_cuda(grad_h, grad_z2, weight2.to(compute_dtype));
  const Tensor h = need_parameters ? empty(sizes.inner) : Tensor();
  const Tensor sums1 =
      layer_backward(task, norm_parameters(task, bias1, norm1_weight, norm1_bias), z1.contiguous(),
                     statistics, 0, grad_h, /*grad_out_is_of_y=*/false, grad_z1, h);
  if (need_parameters) {
    const Tensor grad_weight2 = at::empty(weight2.sizes(), task.options(task.accumulate));
    multiply_cuda(grad_weight2, grad_z2.t(), h);
    const auto [grad_positions, grad_weight1] =
        first_linear_backward_parameters(task, grad_z1, positions, weight1);
    // A select of `sums` shares its storage with the other two; each gradient gets its own.
    const auto vector = [](const Tensor& sums, int64_t i, const Tensor& parameter) {
      return sums.select(0, i).to(parameter.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    };
    grads = {nothing(x),
             grad_positions.to(positions.scalar_type()),
             grad_weight1.to(weight1.scalar_type()),
             vector(sums1, 0, bias1),
             vector(sums1, 1, norm1_weight),
             vector(sums1, 2, norm1_bias),
             grad_weight2.to(weight2.scalar_type()),
             vector(sums2, 0, bias2),
             vector(sums2, 1, norm2_weight),
             vector(sums2, 2, norm2_bias)};
  }
  if (need_x) {
    std::get<0>(grads) = at::empty(x.sizes(), x.options());
    first_linear_backward_x(task, grad_z1, weight1, std::get<0>(grads));
  }
  return grads;
}

}  // namespace spanbert_ext
