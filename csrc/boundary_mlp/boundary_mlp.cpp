// SPDX-License-Identifier: Apache-2.0
#include "boundary_mlp/boundary_mlp.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "boundary_mlp/boundary_layers.h"
#include "boundary_mlp/boundary_rows.h"
#include "common/chunks.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"
#include "common/small_gemm.h"

namespace spanbert_ext {
namespace {

using at::ScalarType;
using at::Tensor;

constexpr int64_t kChunkRows = 256;  // 0.8 MB of float32 at 768 columns: a chunk stays in the L2 cache

struct Precision {
  ScalarType compute;     // z1, z2 are stored in it
  ScalarType gemm;        // operands of the second layer's products, of all live rows
  ScalarType accumulate;  // all else: the first layer's products (few rows), row loops, weight gradients
};

Precision precision(ScalarType compute) {
  return {.compute = compute, .gemm = cpu_gemm_dtype(compute), .accumulate = accumulation_dtype(compute)};
}

// out = a @ b; out may be narrower than the product (float16).
void multiply(const Tensor& a, const Tensor& b, Tensor out) {
  if (out.scalar_type() == a.scalar_type()) {
    at::mm_out(out, a, b);
  } else {
    out.copy_(at::mm(a, b));
  }
}

Layer make_layer(ScalarType weight_dtype, ScalarType accumulate, const Tensor& weight, const Tensor& bias,
                 const Tensor& gain, const Tensor& shift, int64_t statistics_column) {
  const auto vector = [&](const Tensor& t) { return t.to(accumulate).contiguous(); };
  return {weight.to(weight_dtype), vector(bias), vector(gain), vector(shift), statistics_column};
}

std::pair<Layer, Layer> make_layers(const BoundaryInputs& inputs, const Tensor& weight2_operand) {
  const auto [compute, gemm, accumulate] = precision(inputs.compute_dtype);
  const Tensor& weight2 = gemm == compute ? operand_of(weight2_operand, inputs.weight2) : inputs.weight2;
  return {make_layer(accumulate, accumulate, inputs.weight1, inputs.bias1, inputs.norm1_weight,
                     inputs.norm1_bias, 0),
          make_layer(gemm, accumulate, weight2, inputs.bias2, inputs.norm2_weight, inputs.norm2_bias, 2)};
}

// [x[left] | x[right]] of spans [first, first + out.size(0)).
void gather_boundaries(const Tensor& x_rows, const BoundaryRows& rows, int64_t first, const Tensor& out) {
  const int64_t count = out.size(0), hidden = x_rows.size(1);
  copy(rows_of(x_rows, rows.span_left.data() + first), rows_of(out), count, hidden);
  copy(rows_of(x_rows, rows.span_right.data() + first), rows_of(out.narrow(1, hidden, hidden)), count,
       hidden);
}

// The first Linear without bias, in parts: z1 of a row = by_span[its span] + by_slot[its slot].
struct LinearParts {
  Tensor by_span;  // [spans, E]
  Tensor by_slot;  // [S, E]
};

LinearParts first_linear(const Tensor& x_rows, const Tensor& positions, const BoundaryRows& rows,
                         const Tensor& weight) {
  const int64_t columns = 2 * x_rows.size(1), spans = rows.spans(), chunk = chunk_rows(spans, kChunkRows);
  const Tensor boundary_weight = weight.narrow(1, 0, columns).t();  // [2H, E]
  const Tensor position_weight = weight.narrow(1, columns, positions.size(1)).t();
  const LinearParts parts{.by_span = at::empty({spans, weight.size(0)}, weight.options()),
                          .by_slot = at::mm(positions.to(weight.scalar_type()), position_weight)};
  const Tensor buffer = at::empty({chunk, columns}, weight.options());
  for (int64_t first = 0; first < spans; first += chunk) {
    const Tensor boundaries = buffer.narrow(0, 0, std::min(chunk, spans - first));
    gather_boundaries(x_rows, rows, first, boundaries);
    multiply(boundaries, boundary_weight, parts.by_span.narrow(0, first, boundaries.size(0)));
  }
  return parts;
}

void first_linear_backward_parameters(const LinearParts& grad, const Tensor& x_rows, const Tensor& positions,
                                      const BoundaryRows& rows, const Tensor& weight,
                                      const Tensor& grad_positions, const Tensor& grad_weight) {
  const int64_t columns = 2 * x_rows.size(1), spans = rows.spans(), chunk = chunk_rows(spans, kChunkRows);
  const int64_t position_columns = positions.size(1);
  // Zero times a slot that no row reads would be NaN where that slot is.
  const Tensor read = positions.to(weight.scalar_type()).masked_fill(grad.by_slot.eq(0).all(1, true), 0);
  grad_weight.narrow(1, columns, position_columns).addmm_(grad.by_slot.t(), read);
  grad_positions.addmm_(grad.by_slot, weight.narrow(1, columns, position_columns));
  const Tensor buffer = at::empty({chunk, columns}, weight.options());
  for (int64_t first = 0; first < spans; first += chunk) {
    const Tensor boundaries = buffer.narrow(0, 0, std::min(chunk, spans - first));
    gather_boundaries(x_rows, rows, first, boundaries);
    grad_weight.narrow(1, 0, columns)
        .addmm_(grad.by_span.narrow(0, first, boundaries.size(0)).t(), boundaries);
  }
}

// Rows of sums of gradients, one per distinct token: what meets in a token is rounded once, at the end.
struct TokenSums {
  std::vector<int64_t> tokens;                // of each row of sums
  std::vector<int64_t> left, right, own_row;  // the row of sums of each span's boundaries, of each token row
};

TokenSums token_sums(const BoundaryRows& rows, const TokenList& token_rows, int64_t tokens) {
  TokenSums sums;
  std::vector<int64_t> entry(tokens, -1);
  const auto enter_all = [&](const std::vector<int64_t>& of, std::vector<int64_t>& entries) {
    for (const int64_t token : of) {
      if (entry[token] < 0) {
        entry[token] = static_cast<int64_t>(sums.tokens.size());
        sums.tokens.push_back(token);
      }
      entries.push_back(entry[token]);
    }
  };
  enter_all(rows.span_left, sums.left);
  enter_all(rows.span_right, sums.right);
  enter_all(token_rows.token, sums.own_row);
  return sums;
}

void first_linear_backward_x(const Tensor& grad_by_span, const Tensor& weight, const TokenSums& to,
                             const Tensor& sums) {
  const int64_t hidden = sums.size(1), spans = grad_by_span.size(0), chunk = chunk_rows(spans, kChunkRows);
  const Tensor buffer = at::empty({chunk, 2 * hidden}, weight.options());
  for (int64_t first = 0; first < spans; first += chunk) {
    const int64_t count = std::min(chunk, spans - first);
    const Tensor grads = buffer.narrow(0, 0, count);
    multiply(grad_by_span.narrow(0, first, count), weight.narrow(1, 0, 2 * hidden), grads);
    add(rows_of(grads), rows_of(sums, to.left.data() + first), count, hidden);
    add(rows_of(grads.narrow(1, hidden, hidden)), rows_of(sums, to.right.data() + first), count, hidden);
  }
}

void token_rows_backward(const Tensor& grad_rows, const TokenList& token_rows, const TokenSums& to,
                         const Tensor& sums) {
  const int64_t hidden = sums.size(1), rows = token_rows.size(), chunk = chunk_rows(rows, kChunkRows);
  const Tensor source = grad_rows.contiguous(), buffer = at::empty({chunk, hidden}, sums.options());
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    copy(rows_of(source, token_rows.row.data() + first), rows_of(buffer), count, hidden);
    add(rows_of(buffer), rows_of(sums, to.own_row.data() + first), count, hidden);
  }
}

Tensor token_matrix(const Tensor& x) { return x.contiguous().view({x.size(0) * x.size(1), x.size(2)}); }

}  // namespace

BoundaryOutputs boundary_mlp_cpu(const BoundaryMlpArguments& arguments) {
  const PlainDispatch plain;
  const BoundaryInputs inputs = arguments.inputs();
  const double eps = arguments.eps;
  const BoundarySizes sizes = check_inputs(inputs);
  const auto [compute, gemm, accumulate] = precision(inputs.compute_dtype);
  const BoundaryRows rows = live_rows(inputs, sizes);
  const TokenList token_rows = live_token_rows(inputs, sizes);
  const int64_t total = sizes.total(), live = rows.size();

  const auto options = inputs.x.options();
  const Tensor y = at::zeros({sizes.batch, sizes.targets, sizes.outer}, options);
  const Tensor x_rows = token_matrix(inputs.x), y_rows = y.view({total, sizes.outer});
  const Tensor taken = at::zeros({sizes.token_rows, sizes.hidden}, options);
  copy(rows_of(x_rows, token_rows.token.data()), rows_of(taken, token_rows.row.data()), token_rows.size(),
       sizes.hidden);
  const Tensor z1 = at::empty({total, sizes.inner}, options.dtype(compute));
  const Tensor z2 = at::empty({total, sizes.outer}, options.dtype(compute));
  const Tensor statistics = at::empty({total, 4}, options.dtype(accumulate));
  for (const Tensor& saved : {z1, z2, statistics}) saved.narrow(0, live, total - live).zero_();
  const Tensor kept = at::full({total}, -1, options.dtype(at::kLong));
  std::copy(rows.row.begin(), rows.row.end(), kept.mutable_data_ptr<int64_t>());
  const Tensor weight2_operand = make_operand(inputs.weight2, sizes.inner, compute);
  const BoundaryOutputs outputs{y,
                                taken,
                                z1,
                                z2,
                                statistics,
                                kept,
                                at::full({1}, live, options.dtype(at::kLong)),
                                make_operand(inputs.weight1, operand_columns(sizes.input_columns()), compute),
                                weight2_operand};
  if (live == 0) return outputs;

  const auto [layer1, layer2] = make_layers(inputs, weight2_operand);
  const LinearParts parts = first_linear(x_rows, inputs.positions, rows, layer1.weight);
  const int64_t chunk = chunk_rows(live, kChunkRows);
  const Tensor h_buffer = at::empty({chunk, sizes.inner}, options.dtype(gemm));
  for (int64_t first = 0; first < live; first += chunk) {
    const int64_t count = std::min(chunk, live - first);
    const Tensor h = h_buffer.narrow(0, 0, count), statistics_chunk = statistics.narrow(0, first, count);
    const Tensor z1_chunk = z1.narrow(0, first, count), z2_chunk = z2.narrow(0, first, count);
    sum(rows_of(parts.by_span, rows.span.data() + first), rows_of(parts.by_slot, rows.slot.data() + first),
        rows_of(z1_chunk), count, sizes.inner);
    apply_layer(layer1, z1_chunk, statistics_chunk, eps, rows_of(h));
    multiply(h, layer2.weight.t(), z2_chunk);
    apply_layer(layer2, z2_chunk, statistics_chunk, eps, rows_of(y_rows, rows.row.data() + first));
  }
  return outputs;
}

BoundaryGradients boundary_mlp_backward_cpu(const BoundaryMlpBackwardArguments& request) {
  const PlainDispatch plain;
  const BoundaryInputs inputs = request.inputs();
  const BoundarySaved& saved = request.saved;
  const BoundarySizes sizes = check_inputs(inputs);
  const auto [compute, gemm, accumulate] = precision(inputs.compute_dtype);
  check_saved(request, sizes);
  const Tensor& x = inputs.x;
  const bool need_x = request.need_x && x.numel() > 0, need_parameters = request.need_parameters;
  // Without a gradient of y no row of it takes part; likewise of the rows.
  const BoundaryRows rows = request.grad_y ? live_rows(inputs, sizes) : BoundaryRows{};
  const TokenList token_rows = request.grad_rows && need_x ? live_token_rows(inputs, sizes) : TokenList{};
  const int64_t total = sizes.total(), live = rows.size();

  const auto options = x.options().dtype(accumulate);
  const auto zeros = [&](const Tensor& parameter) {
    return need_parameters ? at::zeros(parameter.sizes(), options) : Tensor();
  };
  const Tensor grad_positions = zeros(inputs.positions), grad_weight1 = zeros(inputs.weight1),
               grad_weight2 = zeros(inputs.weight2);
  const Tensor sums1 = at::zeros({3, sizes.inner}, options), sums2 = at::zeros({3, sizes.outer}, options);
  const TokenSums to = need_x ? token_sums(rows, token_rows, sizes.tokens()) : TokenSums{};
  const Tensor x_sums = at::zeros({static_cast<int64_t>(to.tokens.size()), sizes.hidden}, options);
  if (live > 0 && (need_x || need_parameters)) {
    const auto [layer1, layer2] = make_layers(inputs, saved.weight2_operand);
    const Tensor grad_y_rows = request.grad_y->contiguous().view({total, sizes.outer});
    const LinearParts grad_parts{.by_span = at::zeros({rows.spans(), sizes.inner}, options),
                                 .by_slot = at::zeros({sizes.slots, sizes.inner}, options)};
    // Saved tensors come back as hooks of autograd leave them, in any layout.
    const Tensor z1 = saved.z1.contiguous(), z2 = saved.z2.contiguous();
    const int64_t chunk = chunk_rows(live, kChunkRows);
    const Tensor h_buffer = at::empty({need_parameters ? chunk : 0, sizes.inner}, options);
    const Tensor grad_h_buffer = at::empty({chunk, sizes.inner}, options.dtype(gemm));
    const Tensor grad_z1_buffer = at::empty({chunk, sizes.inner}, options);
    const Tensor grad_z2_buffer = at::empty({chunk, sizes.outer}, options);
    for (int64_t first = 0; first < live; first += chunk) {
      const int64_t count = std::min(chunk, live - first);
      const auto part = [&](const Tensor& all, int64_t begin) { return all.narrow(0, begin, count); };
      const Tensor grad_z1 = part(grad_z1_buffer, 0), grad_z2 = part(grad_z2_buffer, 0);
      const Tensor grad_h = part(grad_h_buffer, 0), statistics_chunk = part(saved.statistics, first);
      const Tensor h = need_parameters ? part(h_buffer, 0) : Tensor();
      apply_layer_backward(layer2, part(z2, first), statistics_chunk,
                           rows_of(grad_y_rows, rows.row.data() + first), grad_z2, Tensor(), sums2);
      multiply(grad_z2.to(gemm), layer2.weight, grad_h);
      apply_layer_backward(layer1, part(z1, first), statistics_chunk, rows_of(grad_h), grad_z1, h, sums1);
      // In float32 also under bfloat16: a sum of products rounded per chunk would drift with their number.
      if (need_parameters) grad_weight2.addmm_(grad_z2.t(), h);
      add(rows_of(grad_z1), rows_of(grad_parts.by_span, rows.span.data() + first), count, sizes.inner);
      add(rows_of(grad_z1), rows_of(grad_parts.by_slot, rows.slot.data() + first), count, sizes.inner);
    }
    if (need_parameters) {
      first_linear_backward_parameters(grad_parts, token_matrix(x), inputs.positions, rows, layer1.weight,
                                       grad_positions, grad_weight1);
    }
    if (need_x) first_linear_backward_x(grad_parts.by_span, layer1.weight, to, x_sums);
  }
  const Tensor grad_x = request.need_x ? at::zeros(x.sizes(), x.options()) : at::empty({0}, x.options());
  if (need_x) {
    if (token_rows.size() > 0) token_rows_backward(*request.grad_rows, token_rows, to, x_sums);
    copy(rows_of(x_sums), rows_of(token_matrix(grad_x), to.tokens.data()), x_sums.size(0), sizes.hidden);
  }
  const auto gradient = [&](const Tensor& sum, const Tensor& parameter) {
    return need_parameters ? sum.to(parameter.scalar_type()) : at::empty({0}, parameter.options());
  };
  // A select of `sums` shares its storage with the other two; each gradient gets its own.
  const auto vector = [&](const Tensor& sums, int64_t i, const Tensor& parameter) {
    return gradient(sums.select(0, i).clone(), parameter);
  };
  return {grad_x,
          gradient(grad_positions, inputs.positions),
          gradient(grad_weight1, inputs.weight1),
          vector(sums1, 0, inputs.bias1),
          vector(sums1, 1, inputs.norm1_weight),
          vector(sums1, 2, inputs.norm1_bias),
          gradient(grad_weight2, inputs.weight2),
          vector(sums2, 0, inputs.bias2),
          vector(sums2, 1, inputs.norm2_weight),
          vector(sums2, 2, inputs.norm2_bias)};
}

}  // namespace spanbert_ext
