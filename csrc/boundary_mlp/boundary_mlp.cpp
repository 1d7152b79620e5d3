#include "boundary_mlp/boundary_mlp.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "boundary_mlp/boundary_layers.h"
#include "boundary_mlp/boundary_rows.h"
#include "common/block_gemm.h"
#include "common/chunks.h"
#include "common/dtypes.h"
#include "common/plain_dispatch.h"

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

Precision precision(const Tensor& x, ScalarType compute) {
  check_compute_dtype("boundary_mlp", "x", x.scalar_type(), compute);
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
  grad_weight.narrow(1, columns, position_columns)
      .addmm_(grad.by_slot.t(), positions.to(weight.scalar_type()));
  grad_positions.addmm_(grad.by_slot, weight.narrow(1, columns, position_columns));
  const Tensor buffer = at::empty({chunk, columns}, weight.options());
  for (int64_t first = 0; first < spans; first += chunk) {
    const Tensor boundaries = buffer.narrow(0, 0, std::min(chunk, spans - first));
    gather_boundaries(x_rows, rows, first, boundaries);
    grad_weight.narrow(1, 0, columns)
        .addmm_(grad.by_span.narrow(0, first, boundaries.size(0)).t(), boundaries);
  }
}

void first_linear_backward_x(const LinearParts& grad, const BoundaryRows& rows, const Tensor& weight,
                             const Tensor& grad_x_rows) {
  const int64_t hidden = grad_x_rows.size(1), spans = rows.spans(), chunk = chunk_rows(spans, kChunkRows);
  // One row of sums per distinct token, in float32: what meets in a token is rounded once, at the end.
  std::vector<int64_t> tokens, left(spans), right(spans), entry(grad_x_rows.size(0), -1);
  const auto enter = [&](int64_t token) {
    if (entry[token] < 0) {
      entry[token] = static_cast<int64_t>(tokens.size());
      tokens.push_back(token);
    }
    return entry[token];
  };
  for (int64_t i = 0; i < spans; ++i) {
    left[i] = enter(rows.span_left[i]);
    right[i] = enter(rows.span_right[i]);
  }
  const Tensor sums = at::zeros({static_cast<int64_t>(tokens.size()), hidden}, weight.options());
  const Tensor buffer = at::empty({chunk, 2 * hidden}, weight.options());
  for (int64_t first = 0; first < spans; first += chunk) {
    const int64_t count = std::min(chunk, spans - first);
    const Tensor grads = buffer.narrow(0, 0, count);
    multiply(grad.by_span.narrow(0, first, count), weight.narrow(1, 0, 2 * hidden), grads);
    add(rows_of(grads), rows_of(sums, left.data() + first), count, hidden);
    add(rows_of(grads.narrow(1, hidden, hidden)), rows_of(sums, right.data() + first), count, hidden);
  }
  copy(rows_of(sums), rows_of(grad_x_rows, tokens.data()), sums.size(0), hidden);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> boundary_mlp_cpu(
    const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, double eps, ScalarType compute_dtype,
    std::optional<int64_t> max_rows) {
  const PlainDispatch plain;
  const BoundarySizes sizes = check_inputs(x, masked_positions, positions, weight1, weight2);
  const auto [compute, gemm, accumulate] = precision(x, compute_dtype);
  check_vectors(sizes, bias1, norm1_weight, norm1_bias, bias2, norm2_weight, norm2_bias);
  const BoundaryRows rows = live_rows(masked_positions, left_boundary, right_boundary, max_rows, sizes);
  const int64_t total = sizes.batch * sizes.targets, live = rows.size();

  const Tensor y = at::zeros({sizes.batch, sizes.targets, sizes.outer}, x.options());
  const Tensor z1 = at::empty({total, sizes.inner}, x.options().dtype(compute));
  const Tensor z2 = at::empty({total, sizes.outer}, x.options().dtype(compute));
  const Tensor statistics = at::zeros({total, 4}, x.options().dtype(accumulate));
  z1.narrow(0, live, total - live).zero_();
  z2.narrow(0, live, total - live).zero_();
  if (live == 0) return {y, z1, z2, statistics};

  const Tensor x_rows = x.contiguous().view({sizes.batch * sizes.length, sizes.hidden}),
               y_rows = y.view({total, sizes.outer});
  const Layer layer1 = make_layer(accumulate, accumulate, weight1, bias1, norm1_weight, norm1_bias, 0);
  const Layer layer2 = make_layer(gemm, accumulate, weight2, bias2, norm2_weight, norm2_bias, 2);
  const LinearParts parts = first_linear(x_rows, positions, rows, layer1.weight);
  const int64_t chunk = chunk_rows(live, kChunkRows);
  const Tensor h_buffer = at::empty({chunk, sizes.inner}, x.options().dtype(gemm));
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
  return {y, z1, z2, statistics};
}

BoundaryGradients boundary_mlp_backward_cpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& z1, const Tensor& z2,
    const Tensor& statistics, ScalarType compute_dtype, bool need_x, bool need_parameters,
    std::optional<int64_t> max_rows) {
  const PlainDispatch plain;
  const BoundarySizes sizes = check_inputs(x, masked_positions, positions, weight1, weight2);
  const auto [compute, gemm, accumulate] = precision(x, compute_dtype);
  const int64_t total = sizes.batch * sizes.targets;
  check_vectors(sizes, bias1, norm1_weight, norm1_bias, bias2, norm2_weight, norm2_bias);
  check_saved(sizes, x.scalar_type(), compute, accumulate, grad_y, z1, z2, statistics);
  const BoundaryRows rows = live_rows(masked_positions, left_boundary, right_boundary, max_rows, sizes);
  const int64_t live = rows.size();

  const auto options = x.options().dtype(accumulate);
  const auto zeros = [&](const Tensor& parameter) {
    return need_parameters ? at::zeros(parameter.sizes(), options) : Tensor();
  };
  const Tensor grad_x = need_x ? at::zeros(x.sizes(), x.options()) : at::empty({0}, x.options());
  const Tensor grad_positions = zeros(positions), grad_weight1 = zeros(weight1),
               grad_weight2 = zeros(weight2);
  const Tensor sums1 = at::zeros({3, sizes.inner}, options), sums2 = at::zeros({3, sizes.outer}, options);
  if (live > 0 && (need_x || need_parameters)) {
    const Layer layer1 = make_layer(accumulate, accumulate, weight1, bias1, norm1_weight, norm1_bias, 0);
    const Layer layer2 = make_layer(gemm, accumulate, weight2, bias2, norm2_weight, norm2_bias, 2);
    const Tensor grad_y_rows = grad_y.contiguous().view({total, sizes.outer});
    const LinearParts grad_parts{.by_span = at::zeros({rows.spans(), sizes.inner}, options),
                                 .by_slot = at::zeros({sizes.slots, sizes.inner}, options)};
    const int64_t chunk = chunk_rows(live, kChunkRows);
    const Tensor h_buffer = at::empty({need_parameters ? chunk : 0, sizes.inner}, options);
    const Tensor grad_h_buffer = at::empty({chunk, sizes.inner}, options.dtype(gemm));
    const Tensor grad_z1_buffer = at::empty({chunk, sizes.inner}, options);
    const Tensor grad_z2_buffer = at::empty({chunk, sizes.outer}, options);
    for (int64_t first = 0; first < live; first += chunk) {
      const int64_t count = std::min(chunk, live - first);
      const auto part = [&](const Tensor& all, int64_t begin) { return all.narrow(0, begin, count); };
      const Tensor grad_z1 = part(grad_z1_buffer, 0), grad_z2 = part(grad_z2_buffer, 0);
      const Tensor grad_h = part(grad_h_buffer, 0), statistics_chunk = part(statistics, first);
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
      first_linear_backward_parameters(grad_parts,
                                       x.contiguous().view({sizes.batch * sizes.length, sizes.hidden}),
                                       positions, rows, layer1.weight, grad_positions, grad_weight1);
    }
    if (need_x)
      first_linear_backward_x(grad_parts, rows, layer1.weight,
                              grad_x.view({sizes.batch * sizes.length, sizes.hidden}));
  }
  const auto gradient = [&](const Tensor& sum, const Tensor& parameter) {
    return need_parameters ? sum.to(parameter.scalar_type()) : at::empty({0}, parameter.options());
  };
  // A select of `sums` shares its storage with the other two; each gradient gets its own.
  const auto vector = [&](const Tensor& sums, int64_t i, const Tensor& parameter) {
    return gradient(sums.select(0, i).clone(), parameter);
  };
  return {grad_x,
          gradient(grad_positions, positions),
          gradient(grad_weight1, weight1),
          vector(sums1, 0, bias1),
          vector(sums1, 1, norm1_weight),
          vector(sums1, 2, norm1_bias),
          gradient(grad_weight2, weight2),
          vector(sums2, 0, bias2),
          vector(sums2, 1, norm2_weight),
          vector(sums2, 2, norm2_bias)};
}

}  // namespace spanbert_ext
