// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>
#include <vector>

#include "common/cpu_capability.h"
#include "common/integers.h"
#include "common/small_gemm.h"
#include "vocab_ce/vocab_ce_kernel.h"

namespace spanbert_ext {

// The decoder matrix [V, D], stored as S, as operands of T: in place where the layouts agree, else in a task's buffer. One
// that is no contiguous tensor of S is copied whole.
template <typename T, typename S>
class DecoderWeight {
 public:
  explicit DecoderWeight(const at::Tensor& weight)
      : tensor_(weight.to(c10::CppTypeToScalarType<S>::value).contiguous()),
        data_(tensor_.const_data_ptr<S>()),
        width_(tensor_.size(1)) {}

  // Rows [v, v + size): a left operand [size, D].
  const T* rows(int64_t v, int64_t size, std::vector<T>* buffer) const {
    const S* from = data_ + v * width_;
    if constexpr (std::is_same_v<T, S>) {
      return from;
    } else {
      buffer->resize(size * width_);
      SPANBERT_EXT_CPU_DISPATCH(round_to_bfloat16(from, size * width_, buffer->data()));
      return buffer->data();
    }
  }

  // The same rows' columns [j, j + columns): a right operand [size, columns], for pairs with a row of zeros at the end.
  Panels<T> columns(int64_t v, int64_t size, int64_t j, int64_t columns, std::vector<T>* buffer) const {
    constexpr c10::ScalarType kOperands = c10::CppTypeToScalarType<T>::value;
    const S* from = data_ + v * width_ + j;
    if constexpr (std::is_same_v<T, S>) {
      if (!has_brgemm(kOperands)) return {from, columns, width_, 0};
    }
    const int64_t panel = panel_columns(kOperands), k = round_up(size, kPair<T>);
    buffer->resize(k * round_up(columns, panel));
    SPANBERT_EXT_CPU_DISPATCH(pack_panels(from, width_, size, columns, panel, buffer->data()));
    return Panels<T>::packed(buffer->data(), k, panel);
  }

 private:
  const at::Tensor tensor_;
  const S* const data_;
  const int64_t width_;
};

}  // namespace spanbert_ext
