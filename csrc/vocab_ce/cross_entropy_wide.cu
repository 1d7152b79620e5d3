// SPDX-License-Identifier: Apache-2.0
// Cross-entropy of float32 and float64 logits, a block per row: maximum and sum of exponentials in one pass.
// The row is read once from global memory where it fits into shared memory (kKeepRow), else twice.
#include <cmath>
#include <limits>

#include "vocab_ce/row_kernels.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kThreads = 512;
template <typename T>
constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();

template <typename T>
struct RowStatistics {
  T maximum, sum_exp;  // sum_exp of exp(logit - maximum)
  T sum;               // of logit - centre, for label smoothing
  int64_t best;        // lowest index of the maximum
};

template <typename T>
__device__ __forceinline__ RowStatistics<T> shuffle_xor(RowStatistics<T> s, int lane_bits) {
  return {__shfl_xor_sync(kAllLanes, s.maximum, lane_bits), __shfl_xor_sync(kAllLanes, s.sum_exp, lane_bits),
          __shfl_xor_sync(kAllLanes, s.sum, lane_bits), __shfl_xor_sync(kAllLanes, s.best, lane_bits)};
}

template <typename T>
struct Merge {
  __device__ __forceinline__ RowStatistics<T> operator()(const RowStatistics<T>& a,
                                                         const RowStatistics<T>& b) const {
    const bool first = a.maximum > b.maximum || (a.maximum == b.maximum && a.best < b.best);
    const T maximum = first ? a.maximum : b.maximum;
    // Both maxima are finite (a row begins with the lowest number), also where all logits are -inf.
    return {maximum, a.sum_exp * std::exp(a.maximum - maximum) + b.sum_exp * std::exp(b.maximum - maximum),
            a.sum + b.sum, first ? a.best : b.best};
  }
};

// Adds the logits x of words v, v + 1, ... to a thread's statistics.
template <typename T, int kCount>
__device__ __forceinline__ void add_logits(const T (&x)[kCount], int64_t v, T centre, RowStatistics<T>& s) {
  const T before = s.maximum;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (x[j] > s.maximum) {
      s.maximum = x[j];
      s.best = v + j;
    }
    s.sum += x[j] - centre;
  }
  s.sum_exp *= std::exp(before - s.maximum);
#pragma unroll
  for (int j = 0; j < kCount; ++j) s.sum_exp += std::exp(x[j] - s.maximum);
}

// Left to itself (0), ptxas spills doubles to keep more blocks on a multiprocessor.
template <typename T, bool kKeepRow>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 0) cross_entropy_wide(CrossEntropy problem) {
  using Values = Pack<T, kPackValues<T>>;
  constexpr int kValues = kPackValues<T>;
  __shared__ RowStatistics<T> scratch[kWarpLanes];
  SPANBERT_EXT_DYNAMIC_SHARED(Values, kept);  // [packs]
  const LogitsChunk& chunk = problem.chunk;
  const int64_t vocab = chunk.vocab, packs = vocab / kValues, tail = packs * kValues;
  T* const logits = static_cast<T*>(chunk.logits) + blockIdx.x * chunk.pitch;  // [pitch]
  Values* const packed = reinterpret_cast<Values*>(logits);
  const int64_t compact_row = chunk.first + blockIdx.x, count = *chunk.live.count;
  if (compact_row >= count) {
    // Pitch is a multiple of a pack.
    for (int64_t i = threadIdx.x; problem.need_grad && i * kValues < chunk.pitch; i += kThreads)
      packed[i] = Values{};
    return;
  }

  const int64_t row = chunk.live.rows[compact_row], target = problem.targets[row];
  const bool in_vocab = target < vocab, valid = in_vocab && count <= problem.capacity;
  const T target_logit = in_vocab ? logits[target] : T(0);
  // Sums of differences to a logit of the row: what all logits have in common would take their digits.
  const T centre = std::isfinite(target_logit) ? target_logit : T(0);

  RowStatistics<T> statistics{kLowest<T>, T(0), T(0), vocab};
  for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
    const Values values = packed[i];
    if constexpr (kKeepRow) kept[i] = values;
    add_logits<T>(values.value, i * kValues, centre, statistics);
  }
  for (int64_t v = tail + threadIdx.x; v < vocab; v += kThreads) {
    const T x[1] = {logits[v]};
    add_logits<T>(x, v, centre, statistics);
  }
  const RowStatistics<T> identity{kLowest<T>, T(0), T(0), vocab};
  statistics = reduce_block(statistics, identity, Merge<T>(), scratch);

  const T smoothing = static_cast<T>(problem.smoothing), nan = kNaN<T>;
  const T maximum = statistics.maximum, sum_exp = statistics.sum_exp;
  const T weight = static_cast<const T*>(problem.row_weight)[row];
  if (threadIdx.x == 0) {
    const T log_sum = std::log(sum_exp);
    T nll = (maximum - target_logit) + log_sum;
    if (smoothing > 0) {
      const T mean = (maximum - centre) + log_sum - statistics.sum / static_cast<T>(vocab);
      nll = (1 - smoothing) * nll + smoothing * mean;
    }
    if (is_forbidden<T>(problem, compact_row, target)) nll = static_cast<T>(INFINITY);
    if (!valid) nll = nan;
    static_cast<T*>(problem.nll)[row] = nll;
    static_cast<T*>(problem.weighted_nll)[compact_row] = weight * nll;
    // No logit is above the lowest number where all are NaN or -inf.
    problem.prediction[row] = statistics.best < vocab ? statistics.best : 0;
  }
  if (!problem.need_grad) return;

  const T unit = problem.grad_unit == nullptr ? T(1) : *static_cast<const T*>(problem.grad_unit);
  // p = exp(logit - maximum) / sum_exp: no logarithm of the sum beside the maximum, which would lose digits.
  const T coefficient = valid ? weight / unit : nan, scale = coefficient / sum_exp;
  const T uniform = static_cast<T>(problem.smoothing / static_cast<double>(vocab));
  const T uniform_exp = uniform * sum_exp, rest = 1 - smoothing + uniform;
  const auto gradient = [&](T logit, int64_t v) {
    const T exponential = std::exp(logit - maximum);
    if (v == target) return coefficient * (exponential / sum_exp - rest);
    return scale * (exponential - uniform_exp);
  };
  for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
    const Values values = kKeepRow ? kept[i] : packed[i];
    Values out;
#pragma unroll
    for (int j = 0; j < kValues; ++j) out.value[j] = gradient(values.value[j], i * kValues + j);
    packed[i] = out;
  }
  for (int64_t v = tail + threadIdx.x; v < chunk.pitch; v += kThreads) {
    logits[v] = v < vocab ? gradient(logits[v], v) : T(0);
  }
}

template <typename T>
cudaError_t launch_wide(const CrossEntropy& problem, int64_t limit, cudaStream_t stream) {
  const int64_t bytes = problem.chunk.vocab / kPackValues<T> * kPackBytes;
  const bool keep = problem.need_grad && bytes <= limit;
  return launch(keep ? &cross_entropy_wide<T, true> : &cross_entropy_wide<T, false>,
                grid_of(problem.chunk.rows), dim3(kThreads), keep ? static_cast<size_t>(bytes) : 0, stream,
                problem);
}

}  // namespace

cudaError_t launch_cross_entropy_wide(const CrossEntropy& problem, cudaStream_t stream) {
  int64_t limit = 0;
  const cudaError_t error = kept_row_limit(&limit);
  if (error != cudaSuccess) return error;
  return problem.chunk.type == FloatType::kDouble ? launch_wide<double>(problem, limit, stream)
                                                  : launch_wide<float>(problem, limit, stream);
}

}  // namespace spanbert_ext
