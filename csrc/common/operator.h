// SPDX-License-Identifier: Apache-2.0
// Operators as functions of one struct, whose fields are the schema's arguments in their order: a list of
// arguments stands in C++ once.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace spanbert_ext {

// An argument of a call, which converts to the type of the field that it initialises. The conversions are
// neither templates nor const: then they come before std::optional's constructor from anything that converts
// to its value, which cannot read None.
class Argument {
 public:
  explicit Argument(const c10::IValue& value) : value_(value) {}
  operator at::Tensor() { return value_.toTensor(); }
  operator std::optional<at::Tensor>() { return value_.to<std::optional<at::Tensor>>(); }
  operator std::vector<int64_t>() { return value_.to<std::vector<int64_t>>(); }
  operator std::optional<int64_t>() { return value_.to<std::optional<int64_t>>(); }
  operator at::ScalarType() { return value_.toScalarType(); }
  operator int64_t() { return value_.toInt(); }
  operator double() { return value_.toDouble(); }
  operator bool() { return value_.toBool(); }

 private:
  const c10::IValue& value_;
};

// The arguments of a struct inside another one stand in its place, without braces of their own.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-braces"
template <typename Arguments, size_t... i>
constexpr bool takes_arguments(std::index_sequence<i...>) {
  return requires(const c10::IValue* values) { Arguments{Argument(values[i])...}; };
}

template <typename Arguments, size_t count = 1>
constexpr size_t argument_count() {
  if constexpr (takes_arguments<Arguments>(std::make_index_sequence<count + 1>())) {
    return argument_count<Arguments, count + 1>();
  } else {
    return count;
  }
}

template <typename Arguments, size_t... i>
Arguments read_arguments(const c10::IValue* values, std::index_sequence<i...>) {
  return Arguments{Argument(values[i])...};
}
#pragma GCC diagnostic pop

template <auto function>
struct Operator;

template <typename Result, typename Arguments, Result (*function)(const Arguments&)>
struct Operator<function> {
  static void call(const c10::OperatorHandle& schema, torch::jit::Stack* stack) {
    constexpr size_t kCount = argument_count<Arguments>();
    TORCH_INTERNAL_ASSERT(schema.schema().arguments().size() == kCount, schema.schema(), " has a struct of ",
                          kCount, " arguments");
    const auto arguments = read_arguments<Arguments>(stack->data() + (stack->size() - kCount),
                                                     std::make_index_sequence<kCount>());
    torch::jit::drop(*stack, kCount);
    if constexpr (std::is_void_v<Result>) {
      function(arguments);
    } else if constexpr (std::is_same_v<Result, at::Tensor>) {
      stack->emplace_back(function(arguments));
    } else {
      std::apply([&](auto&&... tensors) { (stack->emplace_back(std::move(tensors)), ...); },
                 function(arguments));
    }
  }
};

// function(const Arguments&) -> void, a tensor, or a tuple of them: for Library::impl.
template <auto function>
torch::CppFunction operator_of() {
  return torch::CppFunction::makeFromBoxedFunction<&Operator<function>::call>();
}

}  // namespace spanbert_ext
