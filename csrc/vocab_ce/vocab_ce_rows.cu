// SPDX-License-Identifier: Apache-2.0
// Around the products: the operands padded and filled, the loss, and gradients handed out. Each is bound by
// memory and moves 16 bytes at a time where rows allow it.
#include "common/row_rank.h"
#include "common/row_values.h"
#include "vocab_ce/row_kernels.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kValues = 8;                        // moved at a time: 16 bytes of the 16-bit types
constexpr int kRowThreads = 128, kRowBlocks = 4;  // left to itself, ptxas aims for more blocks and spills
constexpr int kLossThreads = 1024;
constexpr int kScaleThreads = 256;
constexpr int64_t kMostScaleBlocks = 2048;

template <typename A>
__global__ void __launch_bounds__(kMaxRankThreads) list_rows(ListRows task) {
  const RankedRow ranked = rank_row(task.total, [&](int64_t row) { return task.targets[row] >= 0; });
  const int64_t row = ranked.row;
  if (row < task.total) {
    if (ranked.kept) task.rows[ranked.before] = row;
    if (!ranked.kept || ranked.before >= task.capacity) {
      static_cast<A*>(task.nll)[row] = ranked.kept ? static_cast<A>(NAN) : A(0);
      task.prediction[row] = -1;
    }
    task.compact_rows[row] = ranked.kept ? ranked.before : -1;
    for (int g = 0; g < task.groups.count; ++g) {
      if (task.groups.first[g] == row) task.starts[g] = ranked.before;
    }
  }
  if (!ranked.is_last()) return;
  const int64_t count = ranked.before + ranked.kept;
  task.starts[task.groups.count] = count;
  for (int g = 0; g < task.groups.count; ++g) {
    if (task.groups.first[g] == task.total) task.starts[g] = count;
  }
}

// A bias as the sum of two numbers of type T, the first of them exact in the products of that type (TF32's
// for float), so that a product with 1 brings in all but 2^-17 of it.
template <typename T>
struct SplitBias {
  T high, low;
};
template <typename T>
__device__ __forceinline__ SplitBias<T> split_bias(Accumulate<T> bias) {
  if (bias < widen(forbidden<T>())) return {forbidden<T>(), narrow<T>(0)};
  if constexpr (std::is_same_v<T, double>) {
    return {bias, 0.0};
  } else if constexpr (std::is_same_v<T, float>) {
    constexpr unsigned kHighBits = 0xffffe000u;  // sign, exponent and 10 bits of the mantissa
    const float high = __uint_as_float(__float_as_uint(bias) & kHighBits);
    return {high, bias - high};
  } else {
    const T high = narrow<T>(bias);
    return {high, narrow<T>(bias - widen(high))};
  }
}

// One block per row of operand; N values at a time of the columns of the weight.
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) pack_decoder(PackDecoder task) {
  using A = Accumulate<T>;
  const int64_t row = blockIdx.x, width = task.width;
  T* const out = static_cast<T*>(task.operand) + row * task.pitch;
  const bool in_vocab = row < task.vocab;
  for (int64_t c = threadIdx.x * int64_t{N}; c < width; c += kRowThreads * int64_t{N}) {
    store_values<T, N>(out + c, in_vocab ? load_values<A, N>(task.weight_type, task.weight, row * width + c)
                                         : filled<A, N>(A(0)));
  }
  for (int64_t c = width + threadIdx.x; c < task.pitch; c += kRowThreads) {
    const int64_t group = (c - width) / 2;
    T value = narrow<T>(0);
    if (in_vocab && task.bias != nullptr && group < task.groups) {
      const auto bias = load_values<A, 1>(task.bias_type, task.bias, group * task.vocab + row).value[0];
      const SplitBias<T> split = split_bias<T>(bias);
      value = (c - width) % 2 == 0 ? split.high : split.low;
      if (task.has_forbidden != nullptr && widen(split.high) == widen(forbidden<T>())) {
        atomicOr(task.has_forbidden + group, 1);
      }
    }
    out[c] = value;
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) gather_hidden(GatherHidden task) {
  using A = Accumulate<T>;
  const int64_t i = blockIdx.x, width = task.width;
  const bool is_live = i < *task.live.count;
  const int64_t from = is_live ? task.live.rows[i] * task.stride : 0;
  T* const out = static_cast<T*>(task.compact) + i * task.pitch;
  for (int64_t c = threadIdx.x * int64_t{N}; c < width; c += kRowThreads * int64_t{N}) {
    store_values<T, N>(out + c,
                       is_live ? load_values<A, N>(task.h_type, task.h, from + c) : filled<A, N>(A(0)));
  }
  for (int64_t c = width + threadIdx.x; c < task.pitch; c += kRowThreads) {
    const int64_t group = (c - width) / 2;
    const bool is_own = is_live && task.has_bias && group < task.groups && task.live.starts[group] <= i &&
                        i < task.live.starts[group + 1];
    out[c] = narrow<T>(is_own ? A(1) : A(0));
  }
}

template <typename A>
__global__ void __launch_bounds__(kLossThreads) sum_loss(SumLoss task) {
  __shared__ double scratch[kWarpLanes];
  const int64_t count = *task.count;
  const bool fits = count <= task.capacity;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < (fits ? count : 0); i += kLossThreads) {
    sum += static_cast<double>(static_cast<const A*>(task.weighted_nll)[i]);
  }
  sum = reduce_block(sum, 0.0, Add{}, scratch);
  if (threadIdx.x != 0) return;
  *static_cast<A*>(task.loss) = fits ? static_cast<A>(sum) : static_cast<A>(NAN);
  if (task.grad_unit != nullptr) *static_cast<A*>(task.grad_unit) = A(1);
}

template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) gradient_rows(GradientRows task) {
  using A = Accumulate<T>;
  const int64_t row = blockIdx.x, compact_row = task.compact_rows[row];
  const A scale = *static_cast<const A*>(task.scale);
  for (int64_t c = threadIdx.x * int64_t{N}; c < task.width; c += kRowThreads * int64_t{N}) {
    auto values = filled<A, N>(compact_row < 0 ? A(0) : static_cast<A>(NAN));
    if (compact_row >= 0 && compact_row < task.capacity) {
      values = load_values<T, N>(static_cast<const T*>(task.rows) + compact_row * task.width + c);
#pragma unroll
      for (int j = 0; j < N; ++j) values.value[j] *= scale;
    }
    store_values<A, N>(task.out_type, task.out, row * task.width + c, values);
  }
}

template <typename T>
__global__ void __launch_bounds__(kScaleThreads)
    scale_values(T* values, int64_t count, const Accumulate<T>* scale) {
  constexpr int kPack = kPackValues<T>;
  const Accumulate<T> factor = *scale;
  if (factor == Accumulate<T>(1)) return;
  const int64_t thread = int64_t{blockIdx.x} * kScaleThreads + threadIdx.x;
  const int64_t threads = int64_t{gridDim.x} * kScaleThreads;
  const int64_t packs = reinterpret_cast<uintptr_t>(values) % kPackBytes == 0 ? count / kPack : 0;
  for (int64_t i = thread; i < packs; i += threads) {
    auto pack = load_values<T, kPack>(values + i * kPack);
#pragma unroll
    for (int j = 0; j < kPack; ++j) pack.value[j] *= factor;
    store_values<T, kPack>(values + i * kPack, pack);
  }
  for (int64_t i = packs * kPack + thread; i < count; i += threads) {
    values[i] = narrow<T>(widen(values[i]) * factor);
  }
}

template <typename Function>
cudaError_t dispatch_accumulate(FloatType type, const Function& function) {
  return type == FloatType::kDouble ? function.template operator()<double>()
                                    : function.template operator()<float>();
}

}  // namespace

cudaError_t launch_list_rows(const ListRows& task, cudaStream_t stream) {
  const RankGrid size = rank_grid(task.total);
  return dispatch_accumulate(task.accumulate, [&]<typename A>() {
    return launch(&list_rows<A>, size.grid, size.block, 0, stream, task);
  });
}

cudaError_t launch_pack_decoder(const PackDecoder& task, cudaStream_t stream) {
  if (task.rows == 0 || task.pitch == 0) return cudaSuccess;
  const bool packs = moves_packs<kValues>(task.weight_type, task.weight, task.width) &&
                     moves_packs<kValues>(task.type, task.operand, task.pitch);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? &pack_decoder<T, kValues> : &pack_decoder<T, 1>, grid_of(task.rows),
                  dim3(kRowThreads), 0, stream, task);
  });
}

cudaError_t launch_gather_hidden(const GatherHidden& task, cudaStream_t stream) {
  if (task.rows == 0 || task.pitch == 0) return cudaSuccess;
  const bool packs = task.width % kValues == 0 && moves_packs<kValues>(task.h_type, task.h, task.stride) &&
                     moves_packs<kValues>(task.type, task.compact, task.pitch);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? &gather_hidden<T, kValues> : &gather_hidden<T, 1>, grid_of(task.rows),
                  dim3(kRowThreads), 0, stream, task);
  });
}

cudaError_t launch_sum_loss(const SumLoss& task, cudaStream_t stream) {
  return dispatch_accumulate(task.accumulate, [&]<typename A>() {
    return launch(&sum_loss<A>, dim3(1), dim3(kLossThreads), 0, stream, task);
  });
}

cudaError_t launch_gradient_rows(const GradientRows& task, cudaStream_t stream) {
  if (task.total == 0 || task.width == 0) return cudaSuccess;
  const bool packs = moves_packs<kValues>(task.type, task.rows, task.width) &&
                     moves_packs<kValues>(task.out_type, task.out, task.width);
  return dispatch_float(task.type, [&]<typename T>() {
    return launch(packs ? &gradient_rows<T, kValues> : &gradient_rows<T, 1>, grid_of(task.total),
                  dim3(kRowThreads), 0, stream, task);
  });
}

cudaError_t launch_scale(FloatType type, void* values, int64_t count, const void* scale,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return dispatch_float(type, [&]<typename T>() {
    const int64_t per_block = kScaleThreads * int64_t{kPackValues<T>};
    const int64_t blocks = divide_up(count, per_block);
    return launch(&scale_values<T>, grid_of(blocks < kMostScaleBlocks ? blocks : kMostScaleBlocks),
                  dim3(kScaleThreads), 0, stream, static_cast<T*>(values), count,
                  static_cast<const Accumulate<T>*>(scale));
  });
}

}  // namespace spanbert_ext
