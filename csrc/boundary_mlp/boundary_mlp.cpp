#include "boundary_mlp/boundary_mlp.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "boundary_mlp/boundary_mlp_kernel.h"
#include "boundary_mlp/boundary_rows.h"
#include "common/cpu_capability.h"

namespace spanbert_ext {
namespace {

using at::ScalarType;
using at::Tensor;

constexpr int64_t kChunkRows = 256;  // 1.8 MB of float32 input rows at H = 768: a chunk stays in the L2 cache
constexpr int64_t kBlockRows = 16;   // rows whose parameter gradients are summed together

// Inside the operator neither autograd nor autocast may see the ATen calls.
struct PlainDispatch {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::DispatchKey::AutocastCPU};
};

struct Precision {
  ScalarType compute;     // z1, z2 are stored in it
  ScalarType gemm;        // operands of the products on the path of the activations
  ScalarType accumulate;  // everything between the products; weight gradients
};

Precision precision(const Tensor& x, ScalarType compute) {
  TORCH_CHECK_TYPE(
      compute == at::kDouble || compute == at::kFloat || compute == at::kBFloat16 || compute == at::kHalf,
      "boundary_mlp: compute_dtype is ", compute, "; expected float64, float32, bfloat16 or float16");
  TORCH_CHECK_TYPE((compute == at::kDouble) == (x.scalar_type() == at::kDouble), "boundary_mlp: x has dtype ",
                   x.scalar_type(), " with compute_dtype ", compute,
                   "; expected both or neither to be float64");
  // float16 GEMMs run on no fast path of the CPU; float32 is faster and rounds less.
  return {.compute = compute,
          .gemm = compute == at::kHalf ? at::kFloat : compute,
          .accumulate = compute == at::kDouble ? at::kDouble : at::kFloat};
}

RowView rows_of(const Tensor& matrix, const int64_t* index = nullptr) {
  return {
      .data = matrix.data_ptr(), .type = matrix.scalar_type(), .stride = matrix.stride(0), .index = index};
}

// Calls body(begin, end, scratch) over blocks of rows, with `columns` float64-sized values of scratch per
// thread.
template <typename Body>
void parallel_rows(int64_t rows, int64_t grain, int64_t scratch_columns, const Body& body) {
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<double[]>(scratch_columns);
    body(begin, end, scratch.get());
  });
}

// Gathers (from with an index) or scatters (to with an index) rows; converts between dtypes.
void copy(const RowView& from, const RowView& to, int64_t rows, int64_t columns) {
  parallel_rows(rows, kBlockRows, columns, [&](int64_t begin, int64_t end, void* scratch) {
    SPANBERT_EXT_CPU_DISPATCH(copy_rows)(from, to, columns, begin, end, scratch);
  });
}

// to[row] += from[row]. Threads own columns and take the rows in order: rows that meet are summed
// deterministically.
void add(const RowView& from, const RowView& to, int64_t rows, int64_t columns) {
  at::parallel_for(0, (columns + kColumnBlock - 1) / kColumnBlock, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      SPANBERT_EXT_CPU_DISPATCH(add_rows)(from, to, rows, block * kColumnBlock,
                                          std::min(columns, (block + 1) * kColumnBlock));
    }
  });
}

// out = a @ b; out may be narrower than the product (float16).
void multiply(const Tensor& a, const Tensor& b, Tensor out) {
  if (out.scalar_type() == a.scalar_type()) {
    at::mm_out(out, a, b);
  } else {
    out.copy_(at::mm(a, b));
  }
}

// The parameters of one (Linear, GELU, LayerNorm) layer in the dtypes of the computation.
struct Layer {
  Tensor weight;              // gemm dtype
  Tensor bias, gain, shift;   // accumulate dtype, contiguous
  int64_t statistics_column;  // of mean; 1/std follows
};

Layer layer(const Precision& dtype, const Tensor& weight, const Tensor& bias, const Tensor& gain,
            const Tensor& shift, int64_t statistics_column) {
  const auto vector = [&](const Tensor& t) { return t.to(dtype.accumulate).contiguous(); };
  return {weight.to(dtype.gemm), vector(bias), vector(gain), vector(shift), statistics_column};
}

// out row = LayerNorm(GELU(z + bias)); fills the layer's columns of statistics [rows, 4].
void apply_layer(const Layer& layer, const Tensor& z, const Tensor& statistics, double eps,
                 const RowView& out) {
  const int64_t columns = z.size(1);
  const GeluNormForward block{.columns = columns,
                              .eps = eps,
                              .z = rows_of(z),
                              .bias = layer.bias.data_ptr(),
                              .gain = layer.gain.data_ptr(),
                              .shift = layer.shift.data_ptr(),
                              .mean = statistics.select(1, layer.statistics_column).data_ptr(),
                              .rstd = statistics.select(1, layer.statistics_column + 1).data_ptr(),
                              .statistics_stride = statistics.stride(0),
                              .out = out};
  parallel_rows(z.size(0), 1, 2 * columns, [&](int64_t begin, int64_t end, void* scratch) {
    SPANBERT_EXT_CPU_DISPATCH(gelu_norm_forward)(block, begin, end, scratch);
  });
}

// Turns grad_out into grad_z (accumulate dtype), adds the gradients of bias, gain and shift to sums [3,
// columns] and recomputes the layer's output where `out` is defined.
void apply_layer_backward(const Layer& layer, const Tensor& z, const Tensor& statistics,
                          const RowView& grad_out, const Tensor& grad_z, const Tensor& out,
                          const Tensor& sums) {
  const int64_t rows = z.size(0), columns = z.size(1), blocks = (rows + kBlockRows - 1) / kBlockRows;
  const GeluNormBackward block{.columns = columns,
                               .z = rows_of(z),
                               .bias = layer.bias.data_ptr(),
                               .gain = layer.gain.data_ptr(),
                               .shift = layer.shift.data_ptr(),
                               .mean = statistics.select(1, layer.statistics_column).data_ptr(),
                               .rstd = statistics.select(1, layer.statistics_column + 1).data_ptr(),
                               .statistics_stride = statistics.stride(0),
                               .grad_out = grad_out,
                               .grad_z = rows_of(grad_z),
                               .out = out.defined() ? rows_of(out) : RowView{}};
  const Tensor block_sums = at::empty({blocks, 3, columns}, sums.options());
  parallel_rows(blocks, 1, 4 * columns, [&](int64_t begin, int64_t end, void* scratch) {
    for (int64_t i = begin; i < end; ++i) {
      SPANBERT_EXT_CPU_DISPATCH(gelu_norm_backward)(block, i * kBlockRows,
                                                    std::min(rows, (i + 1) * kBlockRows), scratch,
                                                    block_sums.select(0, i).data_ptr());
    }
  });
  sums.add_(block_sums.sum(0));
}

// [left | right | position] of rows [first, first + h.size(0)) into the chunk buffer h.
void gather_inputs(const BoundarySizes& sizes, const BoundaryRows& rows, int64_t first, const Tensor& x,
                   const Tensor& positions, const Tensor& h) {
  const int64_t count = h.size(0), hidden = sizes.hidden;
  copy(rows_of(x, rows.left.data() + first), rows_of(h.narrow(1, 0, hidden)), count, hidden);
  copy(rows_of(x, rows.right.data() + first), rows_of(h.narrow(1, hidden, hidden)), count, hidden);
  copy(rows_of(positions, rows.slot.data() + first), rows_of(h.narrow(1, 2 * hidden, sizes.position_columns)),
       count, sizes.position_columns);
}

// Chunks of equal size, so that the last GEMM is not a sliver.
int64_t chunk_rows(int64_t rows) {
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  return (rows + chunks - 1) / chunks;
}

// Sums of row gradients per distinct token, so that low precision needs no [B, L, H] buffer in float32.
struct TokenSums {
  std::vector<int64_t> left, right;  // row of `sums` for each live row
  std::vector<int64_t> tokens;       // [U], in [0, B * L)
  Tensor sums;                       // accumulate dtype [U, H]
};

TokenSums token_sums(const BoundarySizes& sizes, const BoundaryRows& rows, const at::TensorOptions& options) {
  std::vector<int64_t> entry(sizes.batch * sizes.length, -1);
  TokenSums result;
  const auto enter = [&](const std::vector<int64_t>& ends) {
    std::vector<int64_t> entries;
    entries.reserve(ends.size());
    for (int64_t token : ends) {
      if (entry[token] < 0) {
        entry[token] = static_cast<int64_t>(result.tokens.size());
        result.tokens.push_back(token);
      }
      entries.push_back(entry[token]);
    }
    return entries;
  };
  result.left = enter(rows.left);
  result.right = enter(rows.right);
  result.sums = at::zeros({static_cast<int64_t>(result.tokens.size()), sizes.hidden}, options);
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> boundary_mlp_cpu(
    const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, double eps, ScalarType compute_dtype) {
  const PlainDispatch plain;
  const BoundarySizes sizes =
      check_inputs(x, masked_positions, left_boundary, right_boundary, positions, weight1, weight2);
  const auto [compute, gemm, accumulate] = precision(x, compute_dtype);
  check_tensor("bias1", bias1, {sizes.inner}, "[E]");
  check_tensor("norm1_weight", norm1_weight, {sizes.inner}, "[E]");
  check_tensor("norm1_bias", norm1_bias, {sizes.inner}, "[E]");
  check_tensor("bias2", bias2, {sizes.outer}, "[D]");
  check_tensor("norm2_weight", norm2_weight, {sizes.outer}, "[D]");
  check_tensor("norm2_bias", norm2_bias, {sizes.outer}, "[D]");
  const BoundaryRows rows = live_rows(masked_positions, left_boundary, right_boundary, sizes);
  const int64_t total = sizes.batch * sizes.targets, live = rows.size();

  const Tensor y = at::zeros({sizes.batch, sizes.targets, sizes.outer}, x.options());
  const Tensor z1 = at::empty({total, sizes.inner}, x.options().dtype(compute));
  const Tensor z2 = at::empty({total, sizes.outer}, x.options().dtype(compute));
  const Tensor statistics = at::zeros({total, 4}, x.options().dtype(accumulate));
  z1.narrow(0, live, total - live).zero_();
  z2.narrow(0, live, total - live).zero_();
  if (live == 0) return {y, z1, z2, statistics};

  const Tensor x_rows = x.contiguous().view({-1, sizes.hidden}), position_rows = positions.contiguous();
  const Tensor y_rows = y.view({total, sizes.outer});
  const Precision dtype{compute, gemm, accumulate};
  const Layer layer1 = layer(dtype, weight1, bias1, norm1_weight, norm1_bias, 0);
  const Layer layer2 = layer(dtype, weight2, bias2, norm2_weight, norm2_bias, 2);
  const int64_t chunk = chunk_rows(live);
  const Tensor h0_buffer = at::empty({chunk, weight1.size(1)}, x.options().dtype(gemm));
  const Tensor h1_buffer = at::empty({chunk, sizes.inner}, x.options().dtype(gemm));
  for (int64_t first = 0; first < live; first += chunk) {
    const int64_t count = std::min(chunk, live - first);
    const Tensor h0 = h0_buffer.narrow(0, 0, count), h1 = h1_buffer.narrow(0, 0, count);
    const Tensor z1_chunk = z1.narrow(0, first, count), z2_chunk = z2.narrow(0, first, count);
    const Tensor statistics_chunk = statistics.narrow(0, first, count);
    gather_inputs(sizes, rows, first, x_rows, position_rows, h0);
    multiply(h0, layer1.weight.t(), z1_chunk);
    apply_layer(layer1, z1_chunk, statistics_chunk, eps, rows_of(h1));
    multiply(h1, layer2.weight.t(), z2_chunk);
    apply_layer(layer2, z2_chunk, statistics_chunk, eps, rows_of(y_rows, rows.row.data() + first));
  }
  return {y, z1, z2, statistics};
}

BoundaryGradients boundary_mlp_backward_cpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& masked_positions, const Tensor& left_boundary,
    const Tensor& right_boundary, const Tensor& positions, const Tensor& weight1, const Tensor& bias1,
    const Tensor& norm1_weight, const Tensor& norm1_bias, const Tensor& weight2, const Tensor& bias2,
    const Tensor& norm2_weight, const Tensor& norm2_bias, const Tensor& z1, const Tensor& z2,
    const Tensor& statistics, ScalarType compute_dtype, bool need_x, bool need_parameters) {
  const PlainDispatch plain;
  const BoundarySizes sizes =
      check_inputs(x, masked_positions, left_boundary, right_boundary, positions, weight1, weight2);
  const Precision dtype = precision(x, compute_dtype);
  const int64_t total = sizes.batch * sizes.targets;
  check_tensor("grad_y", grad_y, {sizes.batch, sizes.targets, sizes.outer}, "[B, K, D]");
  check_tensor("z1", z1, {total, sizes.inner}, "[B*K, E]");
  check_tensor("z2", z2, {total, sizes.outer}, "[B*K, D]");
  check_tensor("statistics", statistics, {total, 4}, "[B*K, 4]");
  const BoundaryRows rows = live_rows(masked_positions, left_boundary, right_boundary, sizes);
  const int64_t live = rows.size();

  const auto accumulate = x.options().dtype(dtype.accumulate);
  const Tensor grad_x = need_x ? at::zeros(x.sizes(), x.options()) : at::empty({0}, x.options());
  const Tensor grad_positions = at::zeros(positions.sizes(), accumulate);
  const Tensor grad_weight1 = need_parameters ? at::zeros(weight1.sizes(), accumulate) : Tensor();
  const Tensor grad_weight2 = need_parameters ? at::zeros(weight2.sizes(), accumulate) : Tensor();
  const Tensor sums1 = at::zeros({3, sizes.inner}, accumulate),
               sums2 = at::zeros({3, sizes.outer}, accumulate);
  if (live > 0 && (need_x || need_parameters)) {
    const Layer layer1 = layer(dtype, weight1, bias1, norm1_weight, norm1_bias, 0);
    const Layer layer2 = layer(dtype, weight2, bias2, norm2_weight, norm2_bias, 2);
    const Tensor x_rows = x.contiguous().view({-1, sizes.hidden}), position_rows = positions.contiguous();
    const Tensor grad_y_rows = grad_y.contiguous().view({total, sizes.outer});
    const TokenSums boundary = token_sums(sizes, rows, accumulate);

    // Columns of the concatenation whose gradient is asked for: all, the boundaries, or the position alone.
    const int64_t hidden2 = 2 * sizes.hidden, first_column = need_x ? 0 : hidden2;
    const int64_t columns = (need_parameters ? weight1.size(1) : hidden2) - first_column;
    const Tensor weight1_columns = layer1.weight.narrow(1, first_column, columns);

    const int64_t chunk = chunk_rows(live);
    const auto buffer = [&](int64_t width, ScalarType type) {
      return at::empty({chunk, width}, x.options().dtype(type));
    };
    const Tensor h0_buffer = buffer(need_parameters ? weight1.size(1) : 0, dtype.accumulate);
    const Tensor h1_buffer = buffer(need_parameters ? sizes.inner : 0, dtype.accumulate);
    const Tensor grad_h0_buffer = buffer(columns, dtype.gemm),
                 grad_h1_buffer = buffer(sizes.inner, dtype.gemm);
    const Tensor grad_z1_buffer = buffer(sizes.inner, dtype.accumulate);
    const Tensor grad_z2_buffer = buffer(sizes.outer, dtype.accumulate);
    for (int64_t first = 0; first < live; first += chunk) {
      const int64_t count = std::min(chunk, live - first);
      const auto part = [&](const Tensor& t, int64_t begin) { return t.narrow(0, begin, count); };
      const Tensor grad_z1 = part(grad_z1_buffer, 0), grad_z2 = part(grad_z2_buffer, 0);
      const Tensor grad_h1 = part(grad_h1_buffer, 0), grad_h0 = part(grad_h0_buffer, 0);
      const Tensor h1 = need_parameters ? part(h1_buffer, 0) : Tensor(),
                   statistics_chunk = part(statistics, first);

      apply_layer_backward(layer2, part(z2, first), statistics_chunk,
                           rows_of(grad_y_rows, rows.row.data() + first), grad_z2, Tensor(), sums2);
      multiply(grad_z2.to(dtype.gemm), layer2.weight, grad_h1);
      apply_layer_backward(layer1, part(z1, first), statistics_chunk, rows_of(grad_h1), grad_z1, h1, sums1);
      multiply(grad_z1.to(dtype.gemm), weight1_columns, grad_h0);
      if (need_x) {
        add(rows_of(grad_h0), rows_of(boundary.sums, boundary.left.data() + first), count, sizes.hidden);
        add(rows_of(grad_h0.narrow(1, sizes.hidden, sizes.hidden)),
            rows_of(boundary.sums, boundary.right.data() + first), count, sizes.hidden);
      }
      if (need_parameters) {
        // In float32 also under bfloat16: a sum of products rounded per chunk would drift with their number.
        const Tensor h0 = part(h0_buffer, 0);
        gather_inputs(sizes, rows, first, x_rows, position_rows, h0);
        grad_weight1.addmm_(grad_z1.t(), h0);
        grad_weight2.addmm_(grad_z2.t(), h1);
        add(rows_of(grad_h0.narrow(1, columns - sizes.position_columns, sizes.position_columns)),
            rows_of(grad_positions, rows.slot.data() + first), count, sizes.position_columns);
      }
    }
    if (need_x) {
      copy(rows_of(boundary.sums), rows_of(grad_x.view({-1, sizes.hidden}), boundary.tokens.data()),
           boundary.sums.size(0), sizes.hidden);
    }
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
