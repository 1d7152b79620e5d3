// SPDX-License-Identifier: Apache-2.0
// The element-wise passes over one vocabulary tile of transposed logits: a row is an entry of the vocabulary, a column
// one row of h.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "common/cpu_kernels.h"
#include "common/operand_pair.h"

namespace spanbert_ext {

constexpr int64_t kColumnMultiple = 16;
constexpr int64_t kStripRows = 32;  // of a vocabulary tile, between two updates of the running maximum

// `columns` is a multiple of kColumnMultiple, so no pass over columns has a tail.
template <typename acc_t>
struct LogitsTile {
  const acc_t* logits;  // [size, columns]
  const acc_t* bias;    // [size], or null
  int64_t size, columns;
};

// Per column, over the tile. Sums are of differences to the maximum: what all logits have in common would
// take the digits of the differences between them.
template <typename acc_t>
struct ColumnStatistics {
  acc_t* maximum;
  acc_t* sum_exp;       // sum(exp(logit - maximum))
  acc_t* sum;           // sum(logit - maximum), for label smoothing; may be null
  int64_t* best_strip;  // the first row of the strip that holds the maximum
};

// Per column, over the whole vocabulary: the gradient of a logit is scale * (exp(logit - maximum) - uniform)
// with scale = coefficient / sum(exp(logit - maximum)). No logarithm of that sum is formed, and maximum + log
// would lose digits.
template <typename acc_t>
struct ColumnSoftmax {
  const acc_t *maximum, *scale, *uniform;
};

// clang-format off
SPANBERT_EXT_DECLARE_CPU_KERNELS(
  template <typename acc_t>
  void column_statistics(LogitsTile<acc_t> tile, ColumnStatistics<acc_t> out);

  // The gradient without its one-hot part: grad [size, columns], each row also summed into grad_bias. What is no normal
  // number is 0.
  template <typename T, typename acc_t>
  void logits_gradient(LogitsTile<acc_t> tile, ColumnSoftmax<acc_t> softmax, T* grad, acc_t* grad_bias);

  // to[j * to_pitch + i] = from[i * columns + j]
  template <typename T>
  void transpose_tile(const T* from, int64_t size, int64_t columns, T* to, int64_t to_pitch);

  void round_to_bfloat16(const float* from, int64_t count, c10::BFloat16* to);

  // from [rows, columns] packed as small_gemm's right operand: [columns / panel, rows / pair, panel, pair]. A missing last
  // row of a pair is zero; what a last, narrower panel lacks is not written.
  template <typename T, typename S>
  void pack_panels(const S* from, int64_t from_pitch, int64_t rows, int64_t columns, int64_t panel, T* to);
)
// clang-format on

}  // namespace spanbert_ext
