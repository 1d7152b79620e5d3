// SPDX-License-Identifier: Apache-2.0
// One layer's bias, GELU and LayerNorm over rows, forward and backward. A block takes whole rows; what it
// needs twice stays in shared memory, or is computed twice where the columns do not fit.
#include <algorithm>

#include "boundary_mlp/boundary_mlp_cuda.h"
#include "common/row_values.h"

namespace spanbert_ext {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kValues = 4;                   // of a row, that a thread takes at most at a time
constexpr int kStatisticsStride = 4;         // mean and 1/std of two layers
constexpr int64_t kSharedBytes = 96 * 1024;  // what every architecture from 80 on gives to one block
constexpr int64_t kForwardArrays = 1;        // the activation
constexpr int64_t kBackwardArrays = 5;       // normalised activation, slope of GELU, three sums over rows

// How many blocks must share a multiprocessor's registers. Left to itself, ptxas aims for more and spills.
template <typename T>
constexpr int kBlocksPerProcessor = std::is_same_v<T, double> ? 1 : 4;

// Products that something close to them is subtracted from: contracted into a fused multiply-add, x - mean(x)
// of a constant row would not be zero, and 1/std of such a row is 1e6.
__device__ __forceinline__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }

template <typename A>
struct Gelu {
  A value, slope;
};

template <typename A>
__device__ __forceinline__ Gelu<A> gelu(A v) {
  const A cdf = A(0.5) * (A(1) + erf(v * A(0.70710678118654752440)));
  const A density = A(0.39894228040143267794) * exp(v * v * A(-0.5));
  return {multiply(v, cdf), cdf + v * density};
}

template <typename A>
struct TwoSums {
  A weighted, projection;
  __device__ __forceinline__ TwoSums operator+(const TwoSums& other) const {
    return {weighted + other.weighted, projection + other.projection};
  }
};
template <typename A>
__device__ __forceinline__ TwoSums<A> shuffle_xor(TwoSums<A> value, int lane_bits) {
  return {spanbert_ext::shuffle_xor(value.weighted, lane_bits),
          spanbert_ext::shuffle_xor(value.projection, lane_bits)};
}

// How a launch goes about its rows.
struct Plan {
  bool keep;  // in shared memory what is needed twice
  double inverse_columns;
  // In double also for float: n equal values then have just that value as their mean. A division would be a
  // call.
  template <typename A>
  __device__ __forceinline__ A mean(A sum) const {
    return static_cast<A>(static_cast<double>(sum) * inverse_columns);
  }
};

// Calls body(column) for the columns of this thread, N at a time: the same ones in every pass over a row.
template <int N, typename Body>
__device__ __forceinline__ void for_each_column(int64_t columns, const Body& body) {
  for (int64_t c = threadIdx.x * int64_t{N}; c < columns; c += blockDim.x * int64_t{N}) body(c);
}

template <typename T, int N>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor<T>)
    norm_layer_forward(NormLayerForward layer, Plan plan) {
  using A = Accumulate<T>;
  using Values = Pack<A, N>;
  SPANBERT_EXT_DYNAMIC_SHARED(A, kept);  // [columns] GELU of this row
  __shared__ A scratch[kWarpLanes];
  const int64_t i = blockIdx.x, columns = layer.columns;
  const BoundaryRow row = boundary_row(layer.index, i);
  const int64_t out_row = layer.out_is_y ? row.row : i;
  const auto store = [&](int64_t c, const Values& values) {
    store_values<A, N>(layer.out_type, layer.out, out_row * columns + c, values);
  };
  const auto store_statistics = [&](A mean, A rstd) {
    static_cast<A*>(layer.mean)[i * kStatisticsStride] = mean;
    static_cast<A*>(layer.rstd)[i * kStatisticsStride] = rstd;
  };
  if (layer.out_is_y && !is_kept(layer.index, i)) {  // a dead row of y, and no compact row's
    for_each_column<N>(columns, [&](int64_t c) {
      store_values<A, N>(layer.out_type, layer.out, i * columns + c, filled<A, N>(A(0)));
    });
  }
  if (!row.is_live) {
    if (threadIdx.x == 0) store_statistics(A(0), A(0));
    if (out_row < 0) return;
    const A fill = layer.out_is_y ? A(NAN) : A(0);
    return for_each_column<N>(columns, [&](int64_t c) { store(c, filled<A, N>(fill)); });
  }
  const T* const z = static_cast<const T*>(layer.z) + i * columns;
  const A* const bias = static_cast<const A*>(layer.bias);
  const A* const gain = static_cast<const A*>(layer.gain);
  const A* const shift = static_cast<const A*>(layer.shift);
  const auto compute = [&](int64_t c) {
    Values v = load_values<T, N>(z + c);
    const Values b = load_values<A, N>(bias + c);
#pragma unroll
    for (int j = 0; j < N; ++j) v.value[j] = gelu(v.value[j] + b.value[j]).value;
    return v;
  };
  const auto activation = [&](int64_t c) { return plan.keep ? load_values<A, N>(kept + c) : compute(c); };

  A sum = 0;
  for_each_column<N>(columns, [&](int64_t c) {
    const Values g = compute(c);
    if (plan.keep) store_values<A, N>(kept + c, g);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += g.value[j];
  });
  const A mean = plan.mean(reduce_block(sum, A(0), Add{}, scratch));
  A squares = 0;
  for_each_column<N>(columns, [&](int64_t c) {
    const Values g = activation(c);
#pragma unroll
    for (int j = 0; j < N; ++j) squares += (g.value[j] - mean) * (g.value[j] - mean);
  });
  const A variance = plan.mean(reduce_block(squares, A(0), Add{}, scratch));
  const A rstd = A(1) / sqrt(variance + static_cast<A>(layer.eps));
  if (threadIdx.x == 0) store_statistics(mean, rstd);
  for_each_column<N>(columns, [&](int64_t c) {
    Values g = activation(c);
    const Values weight = load_values<A, N>(gain + c), offset = load_values<A, N>(shift + c);
#pragma unroll
    for (int j = 0; j < N; ++j) g.value[j] = (g.value[j] - mean) * rstd * weight.value[j] + offset.value[j];
    store(c, g);
  });
}

template <typename T, int N>
__global__ void __launch_bounds__(kMaxThreads, kBlocksPerProcessor<T>)
    norm_layer_backward(NormLayerBackward layer, Plan plan) {
  using A = Accumulate<T>;
  using Values = Pack<A, N>;
  SPANBERT_EXT_DYNAMIC_SHARED(A, kept);
  __shared__ TwoSums<A> scratch[kWarpLanes];
  const int64_t columns = layer.columns;
  A* const sums = static_cast<A*>(layer.sums) + int64_t{blockIdx.x} * 3 * columns;
  A* const normalised_row = kept;
  A* const slope_row = kept + columns;
  A* const bias_sum = plan.keep ? kept + 2 * columns : sums;  // [3, columns]; columns are a thread's own
  A *const gain_sum = bias_sum + columns, *const shift_sum = bias_sum + 2 * columns;
  const A* const bias = static_cast<const A*>(layer.bias);
  const A* const gain = static_cast<const A*>(layer.gain);
  const A* const shift = static_cast<const A*>(layer.shift);
  const auto add_to = [](A* to, const Values& values) {
    Values total = load_values<A, N>(to);
#pragma unroll
    for (int j = 0; j < N; ++j) total.value[j] += values.value[j];
    store_values<A, N>(to, total);
  };
  for_each_column<N>(columns, [&](int64_t c) {
    for (int64_t k = 0; k < 3; ++k) store_values<A, N>(bias_sum + k * columns + c, filled<A, N>(A(0)));
  });

  const int64_t begin = blockIdx.x * layer.rows_per_block;
  const int64_t end = min(begin + layer.rows_per_block, layer.index.capacity);
  for (int64_t i = begin; i < end; ++i) {
    const BoundaryRow row = boundary_row(layer.index, i);
    T* const grad_z = static_cast<T*>(layer.grad_z) + i * columns;
    T* const out = layer.out ? static_cast<T*>(layer.out) + i * columns : nullptr;
    if (!row.is_live) {
      for_each_column<N>(columns, [&](int64_t c) {
        store_values<T, N>(grad_z + c, filled<A, N>(A(0)));
        if (out) store_values<T, N>(out + c, filled<A, N>(A(0)));
      });
      continue;
    }
    const T* const z = static_cast<const T*>(layer.z) + i * columns;
    const A mean = static_cast<const A*>(layer.mean)[i * kStatisticsStride];
    const A rstd = static_cast<const A*>(layer.rstd)[i * kStatisticsStride];
    const int64_t grad_offset = (layer.grad_out_is_of_y ? row.row : i) * columns;
    const auto grad_out = [&](int64_t c) {
      return load_values<A, N>(layer.grad_out_type, layer.grad_out, grad_offset + c);
    };
    const auto weighted = [&](const Values& grad, int64_t c) {
      Values result = load_values<A, N>(gain + c);
#pragma unroll
      for (int j = 0; j < N; ++j) result.value[j] = multiply(result.value[j], grad.value[j]);
      return result;
    };
    const auto compute = [&](int64_t c, Values& normalised, Values& slope) {
      const Values stored = load_values<T, N>(z + c), b = load_values<A, N>(bias + c);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const Gelu<A> activation = gelu(stored.value[j] + b.value[j]);
        normalised.value[j] = (activation.value - mean) * rstd;
        slope.value[j] = activation.slope;
      }
    };

    TwoSums<A> total{0, 0};
    for_each_column<N>(columns, [&](int64_t c) {
      Values normalised, slope;
      compute(c, normalised, slope);
      if (plan.keep) {
        store_values<A, N>(normalised_row + c, normalised);
        store_values<A, N>(slope_row + c, slope);
      }
      const Values grad = grad_out(c), w = weighted(grad, c);
      Values of_gain;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        total.weighted += w.value[j];
        total.projection += w.value[j] * normalised.value[j];
        of_gain.value[j] = grad.value[j] * normalised.value[j];
      }
      add_to(gain_sum + c, of_gain);
      add_to(shift_sum + c, grad);
    });
    total = reduce_block(total, TwoSums<A>{0, 0}, Add{}, scratch);
    const A mean_weighted = plan.mean(total.weighted);
    const A mean_projection = plan.mean(total.projection);
    for_each_column<N>(columns, [&](int64_t c) {
      Values normalised, slope, of_z;
      if (plan.keep) {
        normalised = load_values<A, N>(normalised_row + c);
        slope = load_values<A, N>(slope_row + c);
      } else {
        compute(c, normalised, slope);
      }
      const Values w = weighted(grad_out(c), c);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const A rest = (w.value[j] - mean_weighted) - normalised.value[j] * mean_projection;
        of_z.value[j] = rest * rstd * slope.value[j];
      }
      add_to(bias_sum + c, of_z);
      store_values<T, N>(grad_z + c, of_z);
      if (!out) return;
      const Values weight = load_values<A, N>(gain + c), offset = load_values<A, N>(shift + c);
#pragma unroll
      for (int j = 0; j < N; ++j)
        normalised.value[j] = normalised.value[j] * weight.value[j] + offset.value[j];
      store_values<T, N>(out + c, normalised);
    });
  }
  if (!plan.keep) return;
  for_each_column<N>(columns, [&](int64_t c) {
    for (int64_t k = 0; k < 3; ++k) {
      store_values<A, N>(sums + k * columns + c, load_values<A, N>(bias_sum + k * columns + c));
    }
  });
}

// Launches `packed`, which takes 16 bytes of the accumulate type at a time, where the layer's rows allow it.
template <typename A, typename Layer>
cudaError_t launch_layer(void (*packed)(Layer, Plan), void (*single)(Layer, Plan), const Layer& layer,
                         bool packs, int64_t blocks, int64_t arrays, cudaStream_t stream) {
  const int64_t columns = layer.columns, bytes = arrays * columns * static_cast<int64_t>(sizeof(A));
  const auto moves = [&](const void* vector) {
    return moves_packs<kValues>(std::is_same_v<A, double> ? FloatType::kDouble : FloatType::kFloat, vector,
                                columns);
  };
  packs = packs && moves(layer.bias) && moves(layer.gain) && moves(layer.shift);
  const int64_t per_warp = kWarpLanes * (packs ? kPackValues<A> : 1);
  const int64_t threads =
      std::clamp<int64_t>(divide_up(columns, per_warp) * kWarpLanes, kWarpLanes, kMaxThreads);
  const bool keep = bytes <= kSharedBytes;
  const Plan plan{.keep = keep, .inverse_columns = 1.0 / static_cast<double>(columns)};
  return launch(packs ? packed : single, grid_of(blocks), dim3(static_cast<unsigned>(threads)),
                keep ? static_cast<size_t>(bytes) : 0, stream, layer, plan);
}

}  // namespace

cudaError_t launch_norm_layer_forward(const NormLayerForward& layer, cudaStream_t stream) {
  const int64_t rows = layer.out_is_y ? layer.index.total : layer.index.capacity;
  if (rows == 0) return cudaSuccess;  // rows without columns have statistics, too
  const bool packs = moves_packs<kValues>(layer.type, layer.z, layer.columns) &&
                     moves_packs<kValues>(layer.out_type, layer.out, layer.columns);
  return dispatch_float(layer.type, [&]<typename T>() {
    using A = Accumulate<T>;
    return launch_layer<A>(norm_layer_forward<T, kPackValues<A>>, norm_layer_forward<T, 1>, layer, packs,
                           rows, kForwardArrays, stream);
  });
}

cudaError_t launch_norm_layer_backward(const NormLayerBackward& layer, cudaStream_t stream) {
  if (layer.index.capacity == 0 || layer.columns == 0) return cudaSuccess;
  const int64_t blocks = divide_up(layer.index.capacity, layer.rows_per_block);
  const bool packs = moves_packs<kValues>(layer.type, layer.z, layer.columns) &&
                     moves_packs<kValues>(layer.grad_out_type, layer.grad_out, layer.columns) &&
                     moves_packs<kValues>(layer.type, layer.grad_z, layer.columns) &&
                     moves_packs<kValues>(layer.type, layer.out, layer.columns);
  return dispatch_float(layer.type, [&]<typename T>() {
    using A = Accumulate<T>;
    return launch_layer<A>(norm_layer_backward<T, kPackValues<A>>, norm_layer_backward<T, 1>, layer, packs,
                           blocks, kBackwardArrays, stream);
  });
}

}  // namespace spanbert_ext
