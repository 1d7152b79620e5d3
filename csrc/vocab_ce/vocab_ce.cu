#include <cmath>
#include <limits>

#include "common/cuda_launch.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {
namespace {

constexpr int kRowThreads = 512, kColumnThreads = 128;
template <typename A>
constexpr A kLowest = std::numeric_limits<A>::lowest();
template <typename A>
constexpr A kNaN = std::numeric_limits<A>::quiet_NaN();

template <typename T>
__device__ __forceinline__ Accumulate<T> exponential(Accumulate<T> x) {
  if constexpr (std::is_same_v<T, double> || std::is_same_v<T, float>) {
    return std::exp(x);
  } else {
    return __expf(x);  // its error is far below the rounding of a reduced-precision gradient
  }
}

template <typename A>
struct RowStatistics {
  A maximum, sum_exp;  // sum_exp of exp(logit - maximum)
  A sum;               // of the logits, for label smoothing
  int64_t best;        // lowest index of the maximum
};

template <typename A>
__device__ __forceinline__ RowStatistics<A> shuffle_xor(RowStatistics<A> s, int lane_bits) {
  return {__shfl_xor_sync(kAllLanes, s.maximum, lane_bits), __shfl_xor_sync(kAllLanes, s.sum_exp, lane_bits),
          __shfl_xor_sync(kAllLanes, s.sum, lane_bits), __shfl_xor_sync(kAllLanes, s.best, lane_bits)};
}

template <typename T>
struct Merge {
  using A = Accumulate<T>;
  __device__ __forceinline__ RowStatistics<A> operator()(const RowStatistics<A>& a,
                                                         const RowStatistics<A>& b) const {
    const bool first = a.maximum > b.maximum || (a.maximum == b.maximum && a.best < b.best);
    const A maximum = first ? a.maximum : b.maximum;
    // Both maxima are finite (a row begins with the lowest number), also where all logits are -inf.
    return {maximum,
            a.sum_exp * exponential<T>(a.maximum - maximum) + b.sum_exp * exponential<T>(b.maximum - maximum),
            a.sum + b.sum, first ? a.best : b.best};
  }
};

// Adds the logits x of vocabulary entries v, v + 1, ... to a thread's statistics.
template <typename T, int kCount>
__device__ __forceinline__ void add_logits(const Accumulate<T> (&x)[kCount], int64_t v,
                                           RowStatistics<Accumulate<T>>& s) {
  const Accumulate<T> before = s.maximum;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    if (x[j] > s.maximum) {
      s.maximum = x[j];
      s.best = v + j;
    }
    s.sum += x[j];
  }
  s.sum_exp *= exponential<T>(before - s.maximum);
#pragma unroll
  for (int j = 0; j < kCount; ++j) s.sum_exp += exponential<T>(x[j] - s.maximum);
}

// A block per row. The row is read once from global memory where it fits into shared memory (kKeepRow), else
// twice. Left to itself (0), ptxas spills doubles to keep more blocks on a multiprocessor.
template <typename T, bool kKeepRow>
__global__ void __launch_bounds__(kRowThreads, sizeof(T) == 8 ? 1 : 0)
    cross_entropy_kernel(CrossEntropy problem) {
  using A = Accumulate<T>;
  using Values = Pack<T, kPackValues<T>>;
  constexpr int kValues = kPackValues<T>;
  __shared__ RowStatistics<A> scratch[kWarpLanes];
  SPANBERT_EXT_DYNAMIC_SHARED(Values, kept);  // [packs]
  const LogitsChunk& chunk = problem.chunk;
  const int64_t vocab = chunk.vocab, packs = vocab / kValues, tail = packs * kValues;
  T* const logits = static_cast<T*>(chunk.logits) + blockIdx.x * chunk.pitch;  // [pitch]
  Values* const packed = reinterpret_cast<Values*>(logits);
  const int64_t row = chunk.row_index[blockIdx.x];
  if (row < 0) {
    // Pitch is a multiple of a pack, so the columns after the vocabulary are zeroed as well.
    for (int64_t i = threadIdx.x; problem.need_grad && i * kValues < vocab; i += kRowThreads)
      packed[i] = Values{};
    return;
  }

  const int64_t target = problem.targets[row];
  const bool valid = target < vocab && *problem.row_count <= problem.capacity;
  const A* const bias = problem.bias == nullptr
                            ? nullptr
                            : static_cast<const A*>(problem.bias) + block_of(chunk.blocks, row) * vocab;
  const auto with_bias = [&](T logit, int64_t v) {
    return widen(logit) + (bias == nullptr ? A(0) : bias[v]);
  };
  const A target_logit = target < vocab ? with_bias(logits[target], target) : A(0);

  RowStatistics<A> statistics{kLowest<A>, A(0), A(0), vocab};
  for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
    const Values values = packed[i];
    if constexpr (kKeepRow) kept[i] = values;
    A x[kValues];
#pragma unroll
    for (int j = 0; j < kValues; ++j) x[j] = with_bias(values.value[j], i * kValues + j);
    add_logits<T>(x, i * kValues, statistics);
  }
  for (int64_t v = tail + threadIdx.x; v < vocab; v += kRowThreads) {
    const A x[1] = {with_bias(logits[v], v)};
    add_logits<T>(x, v, statistics);
  }
  const RowStatistics<A> identity{kLowest<A>, A(0), A(0), vocab};
  statistics = reduce_block(statistics, identity, Merge<T>(), scratch);

  const A smoothing = static_cast<A>(problem.smoothing), nan = kNaN<A>;
  const A log_sum_exp = statistics.maximum + std::log(statistics.sum_exp);
  const A weight = static_cast<const A*>(problem.row_weight)[row];
  if (threadIdx.x == 0) {
    A nll = log_sum_exp - target_logit;
    if (smoothing > 0) {
      nll = (1 - smoothing) * nll + smoothing * (log_sum_exp - statistics.sum / static_cast<A>(vocab));
    }
    if (!valid) nll = nan;
    static_cast<A*>(problem.nll)[row] = nll;
    static_cast<A*>(problem.weighted_nll)[row] = weight * nll;
    // No logit is above the lowest number where all are NaN or -inf.
    problem.prediction[row] = statistics.best < vocab ? statistics.best : 0;
  }
  if (!problem.need_grad) return;

  const A unit = problem.grad_unit == nullptr ? A(1) : *static_cast<const A*>(problem.grad_unit);
  const A coefficient = valid ? weight / unit : nan;
  const A uniform = static_cast<A>(problem.smoothing / static_cast<double>(vocab));
  // p - 1 in full precision, then rounded once.
  const auto gradient = [&](T logit, int64_t v) {
    const A probability = exponential<T>(with_bias(logit, v) - log_sum_exp);
    const A share = v == target ? 1 - smoothing : A(0);
    return narrow<T>(coefficient * (probability - share - uniform));
  };
  for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
    const Values values = kKeepRow ? kept[i] : packed[i];
    Values out;
#pragma unroll
    for (int j = 0; j < kValues; ++j) out.value[j] = gradient(values.value[j], i * kValues + j);
    packed[i] = out;
  }
  const int64_t packs_end = (vocab + kValues - 1) / kValues * kValues;
  for (int64_t v = tail + threadIdx.x; v < packs_end; v += kRowThreads) {
    logits[v] = v < vocab ? gradient(logits[v], v) : narrow<T>(A(0));
  }
}

// A block sums kColumnThreads packs of columns over one slice of rows.
template <typename T>
__global__ void __launch_bounds__(kColumnThreads)
    column_sums_kernel(LogitsChunk chunk, Accumulate<T>* partial) {
  using A = Accumulate<T>;
  constexpr int kValues = kPackValues<T>;
  const int64_t column = (blockIdx.x * int64_t{kColumnThreads} + threadIdx.x) * kValues;
  if (column >= chunk.vocab) return;
  int64_t row = blockIdx.y * kSliceRows;
  const int64_t end = row + kSliceRows < chunk.rows ? row + kSliceRows : chunk.rows;
  const T* const logits = static_cast<const T*>(chunk.logits) + column;
  for (int block = 0; block < chunk.blocks.count; ++block) {
    A sum[kValues] = {};
    for (; row < end; ++row) {
      const int64_t source = chunk.row_index[row];
      if (source < 0 || block_of(chunk.blocks, source) != block) break;
      const auto values = *reinterpret_cast<const Pack<T, kValues>*>(logits + row * chunk.pitch);
#pragma unroll
      for (int j = 0; j < kValues; ++j) sum[j] += widen(values.value[j]);
    }
    A* const out =
        partial + (static_cast<int64_t>(blockIdx.y) * chunk.blocks.count + block) * chunk.vocab + column;
#pragma unroll
    for (int j = 0; j < kValues; ++j) {
      if (column + j < chunk.vocab) out[j] = sum[j];
    }
  }
}

// Half of what a block may have: two rows are under way on every multiprocessor.
cudaError_t kept_row_limit(int64_t* bytes) {
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  *bytes = most / 2;
  return error;
}

}  // namespace

cudaError_t launch_cross_entropy(const CrossEntropy& problem, cudaStream_t stream) {
  if (problem.chunk.rows == 0) return cudaSuccess;
  int64_t limit = 0;
  const cudaError_t error = kept_row_limit(&limit);
  if (error != cudaSuccess) return error;
  return dispatch_float(problem.chunk.type, [&]<typename T>() {
    const int64_t bytes = problem.chunk.vocab / kPackValues<T> * kPackBytes;
    const bool keep = problem.need_grad && bytes <= limit;
    return launch(keep ? &cross_entropy_kernel<T, true> : &cross_entropy_kernel<T, false>,
                  dim3(static_cast<unsigned>(problem.chunk.rows)), dim3(kRowThreads),
                  keep ? static_cast<size_t>(bytes) : 0, stream, problem);
  });
}

cudaError_t launch_column_sums(const LogitsChunk& chunk, void* partial, cudaStream_t stream) {
  if (chunk.rows == 0) return cudaSuccess;
  return dispatch_float(chunk.type, [&]<typename T>() {
    constexpr int64_t kColumns = kColumnThreads * kPackValues<T>;
    const dim3 grid(static_cast<unsigned>((chunk.vocab + kColumns - 1) / kColumns),
                    static_cast<unsigned>(column_slices(chunk.rows)));
    return launch(&column_sums_kernel<T>, grid, dim3(kColumnThreads), 0, stream, chunk,
                  static_cast<Accumulate<T>*>(partial));
  });
}

}  // namespace spanbert_ext
