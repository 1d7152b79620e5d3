// SPDX-License-Identifier: Apache-2.0
#include "boundary_mlp/boundary_mlp_kernel.h"

#include <ATen/cpu/vec/vec.h>

#include <cmath>
#include <cstring>

namespace spanbert_ext::CPU_CAPABILITY {
namespace {

using at::vec::Vectorized;
using c10::ScalarType;

// Calls body(offset, count) for every vector of a row; only the last one may be partly filled.
template <typename A, typename Body>
inline void for_each_vector(int64_t columns, Body&& body) {
  constexpr int64_t kSize = Vectorized<A>::size();
  int64_t i = 0;
  for (; i + kSize <= columns; i += kSize) body(i, kSize);
  if (i < columns) body(i, columns - i);
}

template <typename A>
inline A sum_lanes(const Vectorized<A>& v) {
  A lanes[Vectorized<A>::size()];
  v.store(lanes);
  for (int width = Vectorized<A>::size() / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Lanes past `count` become zero, so that they do not enter a sum.
template <typename A>
inline Vectorized<A> keep(const Vectorized<A>& v, int64_t count) {
  return count == Vectorized<A>::size() ? v : Vectorized<A>::set(Vectorized<A>(A(0)), v, count);
}

template <typename T>
inline T* row_pointer(const RowView& view, int64_t row) {
  return static_cast<T*>(view.data) + (view.index ? view.index[row] : row) * view.stride;
}

// Row `row` as accumulate values: in place where the type is already A, else in `scratch`.
template <typename A>
inline const A* load_row(const RowView& view, int64_t row, int64_t columns, A* scratch) {
  switch (view.type) {
    case ScalarType::BFloat16:
      at::vec::convert(row_pointer<const c10::BFloat16>(view, row), scratch, columns);
      return scratch;
    case ScalarType::Half:
      at::vec::convert(row_pointer<const c10::Half>(view, row), scratch, columns);
      return scratch;
    default:
      return row_pointer<const A>(view, row);
  }
}

// Where to form row `row` of `view`: the row itself when it holds A, else `scratch`, from where finish_row
// rounds it.
template <typename A>
inline A* begin_row(const RowView& view, int64_t row, A* scratch) {
  return view.type == c10::CppTypeToScalarType<A>::value ? row_pointer<A>(view, row) : scratch;
}

template <typename A>
inline void finish_row(const RowView& view, int64_t row, int64_t columns, const A* values) {
  switch (view.type) {
    case ScalarType::BFloat16:
      return at::vec::convert(values, row_pointer<c10::BFloat16>(view, row), columns);
    case ScalarType::Half:
      return at::vec::convert(values, row_pointer<c10::Half>(view, row), columns);
    default:
      if (columns > 0 && values != row_pointer<A>(view, row))  // without columns a row has no memory
        std::memcpy(row_pointer<A>(view, row), values, columns * sizeof(A));
  }
}

// Phi(v), the standard normal distribution function: GELU(v) = v * Phi(v).
template <typename A>
inline Vectorized<A> normal_cdf(const Vectorized<A>& v) {
  const Vectorized<A> half(A(0.5)), one(A(1)), sqrt_half(A(M_SQRT1_2));
  return half * (one + (v * sqrt_half).erf());
}

template <typename A>
void forward(const GeluNormForward& layer, int64_t begin, int64_t end, A* scratch) {
  using V = Vectorized<A>;
  const int64_t columns = layer.columns;
  const auto* bias = static_cast<const A*>(layer.bias);
  const auto* gain = static_cast<const A*>(layer.gain);
  const auto* shift = static_cast<const A*>(layer.shift);
  A* activation = scratch + columns;
  for (int64_t row = begin; row < end; ++row) {
    const A* z = load_row<A>(layer.z, row, columns, scratch);
    V sum(A(0));
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V v = V::loadu(z + i, count) + V::loadu(bias + i, count);
      const V g = keep(v * normal_cdf(v), count);
      g.store(activation + i, count);
      sum = sum + g;
    });
    const A mean = sum_lanes(sum) / A(columns);
    V squares(A(0));
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V centred = keep(V::loadu(activation + i, count) - V(mean), count);
      squares = squares + centred * centred;
    });
    const A rstd = A(1) / std::sqrt(sum_lanes(squares) / A(columns) + A(layer.eps));
    static_cast<A*>(layer.mean)[row * layer.statistics_stride] = mean;
    static_cast<A*>(layer.rstd)[row * layer.statistics_stride] = rstd;
    A* out = begin_row<A>(layer.out, row, activation);
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V normalised = (V::loadu(activation + i, count) - V(mean)) * V(rstd);
      (normalised * V::loadu(gain + i, count) + V::loadu(shift + i, count)).store(out + i, count);
    });
    finish_row<A>(layer.out, row, columns, out);
  }
}

template <typename A>
void backward(const GeluNormBackward& layer, int64_t begin, int64_t end, A* scratch, A* sums) {
  using V = Vectorized<A>;
  const int64_t columns = layer.columns;
  const auto* bias = static_cast<const A*>(layer.bias);
  const auto* gain = static_cast<const A*>(layer.gain);
  const auto* shift = static_cast<const A*>(layer.shift);
  A *z_scratch = scratch, *grad_scratch = scratch + columns;
  A *weighted = scratch + 2 * columns, *normalised = scratch + 3 * columns, *slope = scratch + 4 * columns;
  A *grad_bias = sums, *grad_gain = sums + columns, *grad_shift = sums + 2 * columns;
  std::memset(sums, 0, 3 * columns * sizeof(A));
  const V inverse_sqrt_2pi(A(0.39894228040143267794));
  for (int64_t row = begin; row < end; ++row) {
    const A* z = load_row<A>(layer.z, row, columns, z_scratch);
    const A* grad_out = load_row<A>(layer.grad_out, row, columns, grad_scratch);
    const A mean = static_cast<const A*>(layer.mean)[row * layer.statistics_stride];
    const A rstd = static_cast<const A*>(layer.rstd)[row * layer.statistics_stride];
    // Products go through memory before something close to them is subtracted: contracted into a fused
    // multiply-add, x - mean(x) of a constant row is not zero, and 1/std of such a row is 1e6.
    V sum(A(0));
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V v = V::loadu(z + i, count) + V::loadu(bias + i, count);
      const V cdf = normal_cdf(v);
      const V density = inverse_sqrt_2pi * (v * v * V(A(-0.5))).exp();
      (cdf + v * density).store(slope + i, count);  // derivative of GELU
      (v * cdf).store(normalised + i, count);
      const V grad = V::loadu(grad_out + i, count), product = grad * V::loadu(gain + i, count);
      product.store(weighted + i, count);
      sum = sum + product;
      (V::loadu(grad_shift + i, count) + grad).store(grad_shift + i, count);
    });
    V projection(A(0));
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V centred = (V::loadu(normalised + i, count) - V(mean)) * V(rstd);
      centred.store(normalised + i, count);
      projection = projection + V::loadu(weighted + i, count) * centred;
      (V::loadu(grad_gain + i, count) + V::loadu(grad_out + i, count) * centred).store(grad_gain + i, count);
    });
    const V mean_grad(sum_lanes(sum) / A(columns)), mean_projection(sum_lanes(projection) / A(columns));
    A* grad_z = row_pointer<A>(layer.grad_z, row);
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      const V rest = V::loadu(weighted + i, count) - mean_grad;
      const V grad_activation = (rest - V::loadu(normalised + i, count) * mean_projection) * V(rstd);
      const V grad = grad_activation * V::loadu(slope + i, count);
      grad.store(grad_z + i, count);
      (V::loadu(grad_bias + i, count) + grad).store(grad_bias + i, count);
    });
    if (!layer.out.data) continue;
    A* out = row_pointer<A>(layer.out, row);
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      (V::loadu(normalised + i, count) * V::loadu(gain + i, count) + V::loadu(shift + i, count))
          .store(out + i, count);
    });
  }
}

template <typename A>
void sum(const RowView& a, const RowView& b, const RowView& to, int64_t columns, int64_t begin, int64_t end,
         A* scratch) {
  using V = Vectorized<A>;
  for (int64_t row = begin; row < end; ++row) {
    const A *left = row_pointer<A>(a, row), *right = row_pointer<A>(b, row);
    A* out = begin_row<A>(to, row, scratch);
    for_each_vector<A>(columns, [&](int64_t i, int64_t count) {
      (V::loadu(left + i, count) + V::loadu(right + i, count)).store(out + i, count);
    });
    finish_row<A>(to, row, columns, out);
  }
}

template <typename A>
void add(const RowView& from, const RowView& to, int64_t rows, int64_t begin, int64_t end) {
  using V = Vectorized<A>;
  for (int64_t row = 0; row < rows; ++row) {
    const A* source = row_pointer<A>(from, row) + begin;
    A* target = row_pointer<A>(to, row) + begin;
    for_each_vector<A>(end - begin, [&](int64_t i, int64_t count) {
      (V::loadu(target + i, count) + V::loadu(source + i, count)).store(target + i, count);
    });
  }
}

}  // namespace

void gelu_norm_forward(const GeluNormForward& layer, int64_t begin, int64_t end, void* scratch) {
  layer.z.type == ScalarType::Double ? forward<double>(layer, begin, end, static_cast<double*>(scratch))
                                     : forward<float>(layer, begin, end, static_cast<float*>(scratch));
}

void gelu_norm_backward(const GeluNormBackward& layer, int64_t begin, int64_t end, void* scratch,
                        void* sums) {
  if (layer.z.type == ScalarType::Double) {
    backward<double>(layer, begin, end, static_cast<double*>(scratch), static_cast<double*>(sums));
  } else {
    backward<float>(layer, begin, end, static_cast<float*>(scratch), static_cast<float*>(sums));
  }
}

void copy_rows(const RowView& from, const RowView& to, int64_t columns, int64_t begin, int64_t end,
               void* scratch) {
  for (int64_t row = begin; row < end; ++row) {
    if (from.type == ScalarType::Double) {
      finish_row<double>(to, row, columns, row_pointer<double>(from, row));
    } else if (from.type == to.type && from.type != ScalarType::Float) {
      std::memcpy(row_pointer<uint16_t>(to, row), row_pointer<uint16_t>(from, row),
                  columns * sizeof(uint16_t));
    } else {
      finish_row<float>(to, row, columns, load_row<float>(from, row, columns, static_cast<float*>(scratch)));
    }
  }
}

void sum_rows(const RowView& a, const RowView& b, const RowView& to, int64_t columns, int64_t begin,
              int64_t end, void* scratch) {
  a.type == ScalarType::Double ? sum<double>(a, b, to, columns, begin, end, static_cast<double*>(scratch))
                               : sum<float>(a, b, to, columns, begin, end, static_cast<float*>(scratch));
}

void add_rows(const RowView& from, const RowView& to, int64_t rows, int64_t begin, int64_t end) {
  to.type == ScalarType::Double ? add<double>(from, to, rows, begin, end)
                                : add<float>(from, to, rows, begin, end);
}

}  // namespace spanbert_ext::CPU_CAPABILITY
