// SPDX-License-Identifier: Apache-2.0
#include "boundary_mlp/boundary_layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstddef>
#include <memory>

#include "common/cpu_capability.h"
#include "common/integers.h"

namespace spanbert_ext {
namespace {

constexpr int64_t kRowGrain = 16;  // rows a thread takes at least; also the rows summed in one partial sum
constexpr int64_t kColumnGrain = 64;

// Calls body(begin, end, scratch) over ranges of rows; scratch holds `values` float64-sized values.
template <typename Body>
void parallel_rows(int64_t rows, int64_t grain, int64_t values, const Body& body) {
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = std::make_unique_for_overwrite<double[]>(values);
    body(begin, end, scratch.get());
  });
}

}  // namespace

RowView rows_of(const at::Tensor& matrix, const int64_t* index) {
  TORCH_INTERNAL_ASSERT(matrix.size(1) < 2 || matrix.stride(1) == 1);
  return {
      .data = matrix.data_ptr(), .type = matrix.scalar_type(), .stride = matrix.stride(0), .index = index};
}

// Rows without columns may have no memory at all.
void copy(const RowView& from, const RowView& to, int64_t rows, int64_t columns) {
  if (columns == 0) return;
  parallel_rows(rows, kRowGrain, columns, [&](int64_t begin, int64_t end, void* scratch) {
    SPANBERT_EXT_CPU_DISPATCH(copy_rows)(from, to, columns, begin, end, scratch);
  });
}

void sum(const RowView& a, const RowView& b, const RowView& to, int64_t rows, int64_t columns) {
  if (columns == 0) return;
  parallel_rows(rows, kRowGrain, columns, [&](int64_t begin, int64_t end, void* scratch) {
    SPANBERT_EXT_CPU_DISPATCH(sum_rows)(a, b, to, columns, begin, end, scratch);
  });
}

void add(const RowView& from, const RowView& to, int64_t rows, int64_t columns) {
  at::parallel_for(0, columns, kColumnGrain, [&](int64_t begin, int64_t end) {
    SPANBERT_EXT_CPU_DISPATCH(add_rows)(from, to, rows, begin, end);
  });
}

void apply_layer(const Layer& layer, const at::Tensor& z, const at::Tensor& statistics, double eps,
                 const RowView& out) {
  const int64_t columns = z.size(1);
  const GeluNormForward layer_rows{.columns = columns,
                                   .eps = eps,
                                   .z = rows_of(z),
                                   .bias = layer.bias.data_ptr(),
                                   .gain = layer.gain.data_ptr(),
                                   .shift = layer.shift.data_ptr(),
                                   .mean = statistics.select(1, layer.statistics_column).data_ptr(),
                                   .rstd = statistics.select(1, layer.statistics_column + 1).data_ptr(),
                                   .statistics_stride = statistics.stride(0),
                                   .out = out};
  parallel_rows(z.size(0), kRowGrain, 2 * columns, [&](int64_t begin, int64_t end, void* scratch) {
    SPANBERT_EXT_CPU_DISPATCH(gelu_norm_forward)(layer_rows, begin, end, scratch);
  });
}

void apply_layer_backward(const Layer& layer, const at::Tensor& z, const at::Tensor& statistics,
                          const RowView& grad_out, const at::Tensor& grad_z, const at::Tensor& out,
                          const at::Tensor& sums) {
  const int64_t rows = z.size(0), columns = z.size(1), ranges = divide_up(rows, kRowGrain);
  if (columns == 0) return;
  const GeluNormBackward layer_rows{.columns = columns,
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
  // One partial sum per range of rows, not per thread: the result does not depend on the number of threads.
  const at::Tensor partial = at::empty({ranges, 3, columns}, sums.options());
  auto* const partials = static_cast<std::byte*>(partial.mutable_data_ptr());
  const int64_t partial_bytes = partial.stride(0) * partial.element_size();
  parallel_rows(ranges, 1, 5 * columns, [&](int64_t begin, int64_t end, void* scratch) {
    for (int64_t i = begin; i < end; ++i) {
      SPANBERT_EXT_CPU_DISPATCH(gelu_norm_backward)(layer_rows, i * kRowGrain,
                                                    std::min(rows, (i + 1) * kRowGrain), scratch,
                                                    partials + i * partial_bytes);
    }
  });
  sums.add_(partial.sum(0));
}

}  // namespace spanbert_ext
