// The element-wise passes over one vocabulary tile of transposed logits [size, columns]: a row is an entry of
// the vocabulary, a column one row of h. `columns` is a multiple of kColumnMultiple, so no pass over columns
// has a tail. `bias` is the tile's, or null.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>

#include "common/cpu_kernels.h"

namespace spanbert_ext {

constexpr int64_t kColumnMultiple = 16;
constexpr int64_t kStripRows = 32;  // of a vocabulary tile, between two updates of the running maximum

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
  void column_statistics(const acc_t* logits, const acc_t* bias, int64_t size, int64_t columns,
                         ColumnStatistics<acc_t> out);

  // The gradient without its one-hot part: grad [size, columns], each row also summed into grad_bias. What is no normal
  // number is 0.
  template <typename T, typename acc_t>
  void logits_gradient(const acc_t* logits, const acc_t* bias, int64_t size, int64_t columns,
                       ColumnSoftmax<acc_t> softmax, T* grad, acc_t* grad_bias);

  // to[j * to_pitch + i] = from[i * columns + j]
  template <typename T>
  void transpose_tile(const T* from, int64_t size, int64_t columns, T* to, int64_t to_pitch);

  void round_to_bfloat16(const float* from, int64_t count, c10::BFloat16* to);

  // Rows in pairs, as small_gemm reads bfloat16: to[i / 2][j][i % 2] = from[i * from_pitch + j], with to_pitch
  // columns; a missing last row is zero.
  template <typename S>
  void pair_rows(const S* from, int64_t from_pitch, int64_t rows, int64_t columns, c10::BFloat16* to,
                 int64_t to_pitch);
)
// clang-format on

}  // namespace spanbert_ext
