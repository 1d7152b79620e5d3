// SPDX-License-Identifier: Apache-2.0
// Cross-entropy of 16-bit logits, a block per row; for .cu files. The row is copied to shared memory while
// its maximum is found (kKeepRow), or read from global memory three times where it does not fit. Instructions
// are what bounds it besides memory, so that a logit has about ten: pairs are compared as pairs, indices have
// 32 bits, and what is needed of one column alone (the target, the first column of the maximum) stays out of
// the loops.
#pragma once

#include "vocab_ce/pair16.h"
#include "vocab_ce/row_kernels.h"
#include "vocab_ce/vocab_ce_cuda.h"

namespace spanbert_ext {

constexpr int kPairs = 4;  // in an access of 16 bytes
constexpr int kPackColumns = 2 * kPairs;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct Maximum {
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <int kThreads, int kUnroll, typename Body>
__device__ __forceinline__ void for_each_pack(int begin, int end, const Body& body) {
#pragma unroll kUnroll
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) body(i);
}

template <typename T, int kThreads, int kUnroll, int kBlocks, bool kKeepRow, bool kSmoothing>
__global__ void __launch_bounds__(kThreads, kBlocks) cross_entropy_rows(CrossEntropy problem) {
  using Pair = Pair16<T>;
  using Pack = Pack<uint32_t, kPairs>;
  SPANBERT_EXT_DYNAMIC_SHARED(Pack, kept);  // [packs]
  __shared__ float scratch[kWarpLanes];
  __shared__ int best;
  const LogitsChunk& chunk = problem.chunk;
  const int vocab = static_cast<int>(chunk.vocab), packs = static_cast<int>(chunk.pitch) / kPackColumns;
  T* const logits = static_cast<T*>(chunk.logits) + int64_t{blockIdx.x} * chunk.pitch;  // [pitch]
  Pack* const packed = reinterpret_cast<Pack*>(logits);
  const int64_t compact_row = chunk.first + blockIdx.x, count = *chunk.live.count;
  if (compact_row >= count) {
    if (problem.need_grad) for_each_pack<kThreads, 1>(0, packs, [&](int i) { packed[i] = Pack{}; });
    return;
  }
  const int64_t row = chunk.live.rows[compact_row], target_id = problem.targets[row];
  const bool in_vocab = target_id < vocab, valid = in_vocab && count <= problem.capacity;
  const int target = in_vocab ? static_cast<int>(target_id) : 0;
  const float target_logit = widen(logits[target]);
  if (threadIdx.x == 0) best = vocab;
  const int whole = vocab / kPackColumns;  // packs without padding
  // Columns after the vocabulary hold anything; as -inf they are in no maximum and no sum.
  const auto without_padding = [&](Pack pack, int i) {
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const int column = i * kPackColumns + 2 * k;
      uint32_t& pair = pack.value[k];
      if (column >= vocab) pair = Pair::kMinusInfinity << 16 | Pair::kMinusInfinity;
      if (column + 1 == vocab) pair = (pair & 0xffffu) | Pair::kMinusInfinity << 16;
    }
    return pack;
  };
  const auto load = [&](int i) {
    if constexpr (kKeepRow) return kept[i];
    return i < whole ? packed[i] : without_padding(packed[i], i);
  };

  uint32_t top = Pair::kMinusInfinity << 16 | Pair::kMinusInfinity;
  const auto compare = [&](const Pack& pack, int i) {
    if constexpr (kKeepRow) kept[i] = pack;
    top = Pair::maximum(top, Pair::maximum(Pair::maximum(pack.value[0], pack.value[1]),
                                           Pair::maximum(pack.value[2], pack.value[3])));
  };
  for_each_pack<kThreads, kUnroll>(0, whole, [&](int i) { compare(packed[i], i); });
  for_each_pack<kThreads, 1>(whole, packs, [&](int i) { compare(without_padding(packed[i], i), i); });
  const float own_maximum = fmaxf(Pair::low(top), Pair::high(top));
  // Where all logits are -inf or NaN the loss becomes NaN, as anywhere.
  const float maximum = fmaxf(reduce_block(own_maximum, -INFINITY, Maximum{}, scratch), kLowest<float>);

  float sum_exp = 0, sum = 0;
  const float offset = -maximum * kLog2E;
  // The thread that compared a pack is the one that reads it here: no barrier lies between.
  const auto add_exp = [&](int i) {
    const Pack pack = load(i);
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      const float low = Pair::low(pack.value[k]), high = Pair::high(pack.value[k]);
      sum_exp += exp2_approximate(fmaf(low, kLog2E, offset));
      sum_exp += exp2_approximate(fmaf(high, kLog2E, offset));
      if constexpr (kSmoothing) {
        const int column = i * kPackColumns + 2 * k;
        sum += (column < vocab ? low : 0.0f) + (column + 1 < vocab ? high : 0.0f);
      }
    }
  };
  // A thread takes the packs of `compare`: those from `whole` on in another stride.
  for_each_pack<kThreads, kUnroll>(0, whole, add_exp);
  for_each_pack<kThreads, 1>(whole, packs, add_exp);
  if (own_maximum == maximum) {
    const auto find = [&](int i) {
      const Pack pack = load(i);
      int column = vocab;
#pragma unroll
      for (int k = kPairs - 1; k >= 0; --k) {
        if (Pair::high(pack.value[k]) == maximum) column = i * kPackColumns + 2 * k + 1;
        if (Pair::low(pack.value[k]) == maximum) column = i * kPackColumns + 2 * k;
      }
      if (column < vocab) atomicMin(&best, column);  // the lowest one in any order
    };
    for_each_pack<kThreads, 1>(0, whole, find);
    for_each_pack<kThreads, 1>(whole, packs, find);
  }
  sum_exp = reduce_block(sum_exp, 0.0f, Add{}, scratch);
  if constexpr (kSmoothing) sum = reduce_block(sum, 0.0f, Add{}, scratch);

  const float smoothing = static_cast<float>(problem.smoothing);
  const float uniform = static_cast<float>(problem.smoothing / static_cast<double>(vocab));
  // What rounding `offset` adds to every exponent: sum_exp and each probability's numerator share that
  // factor.
  const float rounded = fmaf(maximum, kLog2E, offset);
  const float log_sum = logf(sum_exp) - rounded * kLn2;
  const float weight = static_cast<const float*>(problem.row_weight)[row];
  if (threadIdx.x == 0) {
    float nll = (maximum - target_logit) + log_sum;
    if constexpr (kSmoothing) {
      const float mean = (maximum - sum / static_cast<float>(vocab)) + log_sum;
      nll = (1 - smoothing) * nll + smoothing * mean;
    }
    if (is_forbidden<T>(problem, compact_row, target_id)) nll = INFINITY;
    if (!valid) nll = NAN;
    static_cast<float*>(problem.nll)[row] = nll;
    static_cast<float*>(problem.weighted_nll)[compact_row] = weight * nll;
    problem.prediction[row] = best < vocab ? best : 0;  // no column where all are NaN or -inf
  }
  if (!problem.need_grad) return;

  const float unit = problem.grad_unit == nullptr ? 1.0f : *static_cast<const float*>(problem.grad_unit);
  const float coefficient = valid ? weight / unit : NAN;
  // p = exp(logit - maximum) / sum_exp, the division a factor of the row: maximum + log(sum_exp) in the
  // exponent would lose digits where the logits have much in common.
  const float scale = coefficient / sum_exp, uniform_exp = uniform * sum_exp;
  const auto exponential = [&](float logit) { return exp2_approximate(fmaf(logit, kLog2E, offset)); };
  const auto differentiate = [&](int i) {
    const Pack pack = load(i);
    Pack out;
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      float low = exponential(Pair::low(pack.value[k])), high = exponential(Pair::high(pack.value[k]));
      if constexpr (kSmoothing) {
        const int column = i * kPackColumns + 2 * k;
        low -= column < vocab ? uniform_exp : 0.0f;
        high -= column + 1 < vocab ? uniform_exp : 0.0f;
      }
      out.value[k] = Pair::make(scale * low, scale * high);
    }
    packed[i] = out;
  };
  for_each_pack<kThreads, kUnroll>(0, whole, differentiate);
  for_each_pack<kThreads, 1>(whole, packs, differentiate);
  // p - 1 in full precision, then rounded once, by the thread that wrote the target's pack.
  const int target_pack = target / kPackColumns;
  const int owner = (target_pack < whole ? target_pack : target_pack - whole) % kThreads;
  if (valid && owner == static_cast<int>(threadIdx.x)) {
    const float rest = kSmoothing ? 1 - smoothing + uniform : 1.0f;
    logits[target] = narrow<T>(coefficient * (exponential(target_logit) / sum_exp - rest));
  }
}

}  // namespace spanbert_ext
