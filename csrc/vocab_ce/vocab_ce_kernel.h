// The element-wise passes over a chunk of transposed logits [V, columns]: a column is one row of h.
// `columns` is a multiple of kColumnMultiple, so no pass has a tail.
#pragma once

#include <cstdint>

#include "common/cpu_kernels.h"

namespace spanbert_ext {

constexpr int64_t kColumnMultiple = 32;
constexpr int64_t kTile = 32;  // vocabulary rows between two updates of the running maximum

// Per column, over a range of the vocabulary. `best_tile` is the first vocabulary row of the tile that holds
// the maximum; `sum` (of the logits, for label smoothing) may be null.
template <typename acc_t>
struct ColumnStatistics {
  acc_t* maximum;
  acc_t* sum_exp;  // sum(exp(logit - maximum))
  acc_t* sum;
  int64_t* best_tile;
};

// clang-format off
SPANBERT_EXT_DECLARE_CPU_KERNELS(
  // Statistics of the vocabulary rows [v_begin, v_end).
  template <typename T, typename acc_t>
  void column_statistics(const T* logits, const acc_t* bias, int64_t v_begin, int64_t v_end, int64_t columns,
                         ColumnStatistics<acc_t> out);

  // grad = coefficient * (softmax - uniform) for the vocabulary rows [v_begin, v_end), each row also summed into
  // grad_bias. `grad` [v_end - v_begin, columns] may be the logits themselves; reduced-precision logits are replaced
  // by the rounded gradient too. The caller subtracts the one-hot part.
  template <typename T, typename acc_t>
  void logits_gradient(T* logits, const acc_t* bias, int64_t v_begin, int64_t v_end, int64_t columns,
                       const acc_t* log_sum_exp, const acc_t* coefficient, acc_t uniform, acc_t* grad,
                       acc_t* grad_bias);
)
// clang-format on

}  // namespace spanbert_ext
