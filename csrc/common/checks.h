// SPDX-License-Identifier: Apache-2.0
// What every operator checks of a tensor before it reads its memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <optional>

namespace spanbert_ext {

inline void check_is_dense(const char* op, const char* name, const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(tensor.defined(), op, ": ", name, " is undefined, expected a tensor");
  TORCH_CHECK_TYPE(tensor.layout() == at::kStrided && !tensor.is_nested() && !tensor.is_quantized(), op, ": ",
                   name, " is ", tensor.toString(), " with layout ", tensor.layout(),
                   ", expected a dense tensor");
}

// The tensors of one operator, checked one after the other; all lie where the first one does.
class TensorArguments {
 public:
  TensorArguments(const char* op, const char* name, const at::Tensor& first)
      : op_(op), name_(name), first_(first) {
    check_is_dense(op, name, first);
  }
  const TensorArguments& check(const char* name, const at::Tensor& tensor) const {
    check_is_dense(op_, name, tensor);
    TORCH_CHECK_VALUE(tensor.device() == first_.device(), op_, ": ", name, " is on ", tensor.device(),
                      ", expected ", first_.device(), " as ", name_);
    return *this;
  }
  const TensorArguments& check(const char* name, const std::optional<at::Tensor>& tensor) const {
    return tensor.has_value() ? check(name, *tensor) : *this;
  }

 private:
  const char *const op_, *const name_;
  const at::Tensor& first_;
};

}  // namespace spanbert_ext
