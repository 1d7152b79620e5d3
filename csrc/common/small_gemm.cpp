// SPDX-License-Identifier: Apache-2.0
#include "common/small_gemm.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <exception>

#include "common/cpu_capability.h"
#include "common/integers.h"
#ifdef SPANBERT_EXT_EMULATE_BRGEMM
#include "brgemm.h"  // tests/emulated_brgemm
#else
#include <ATen/native/CPUBlas.h>
#endif

namespace spanbert_ext {
namespace {

#ifdef SPANBERT_EXT_EMULATE_BRGEMM
using emulated_brgemm::brgemm;
using emulated_brgemm::brgemm_release;
#else
using at::native::cpublas::brgemm;
using at::native::cpublas::brgemm_release;
#endif

constexpr int64_t kKernelPanel = 64;   // four vectors of float32: the widest tile of oneDNN's kernels
constexpr int64_t kAtenPanel = 384;    // MKL splits it again; many threads still find enough panels
constexpr int64_t kRowsPerCall = 128;  // of a, for all panels of b: they stay in the L2 cache

// Without the instructions oneDNN widens every operand, or has no kernel.
template <typename T>
bool has_instructions() {
#if defined(SPANBERT_EXT_EMULATE_BRGEMM)
  return true;
#elif defined(__x86_64__)
  return cpu_capability() == Capability::kAvx512 && (kPair<T> == 1 || __builtin_cpu_supports("avx512bf16"));
#else
  return false;
#endif
}

// torch has no function that says whether there is a kernel. Of bfloat16 in pairs brgemm throws where one is missing; of
// float32 it then calls the BLAS: right too, in pieces smaller than need be.
template <typename T>
bool multiplies() {
  constexpr int64_t kSize = 16;
  std::array<T, kSize * kSize> ones;
  ones.fill(T(1));
  std::array<float, kSize * kSize> product{};
  try {
    brgemm(kSize, kSize, kSize, kSize, kSize, kSize, false, ones.data(), ones.data(), product.data(),
           kPair<T> == 2);
    brgemm_release();                // the first product sets up the matrix unit
  } catch (const std::exception&) {  // torch's own, or oneDNN's where that has the kernel and not its code
    return false;
  }
  return std::all_of(product.begin(), product.end(), [](float x) { return x == kSize; });
}

// Off is an answer of the moment, what the CPU has is not.
bool multiplies_bfloat16() {
  if (!has_instructions<c10::BFloat16>() || !at::globalContext().userEnabledMkldnn()) return false;
  static const bool multiplied = multiplies<c10::BFloat16>();
  return multiplied;
}

template <typename T>
void aten_gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_pitch, const T* b, int64_t b_pitch,
               T* c, int64_t c_pitch, bool accumulate) {
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value);
  const at::Tensor a_view = at::from_blob(const_cast<T*>(a), {m, k}, {a_pitch, 1}, options),
                   b_view = at::from_blob(const_cast<T*>(b), {k, n}, {b_pitch, 1}, options);
  at::Tensor c_view = at::from_blob(c, {m, n}, {c_pitch, 1}, options);
  accumulate ? c_view.addmm_(a_view, b_view) : at::mm_out(c_view, a_view, b_view);
}

// At most a panel of columns.
template <typename T, typename acc_t>
void multiply_panel(const Product<T, acc_t>& p) {
  if constexpr (std::is_same_v<acc_t, float>) {
    if (has_brgemm(c10::CppTypeToScalarType<T>::value)) {
      brgemm(p.m, p.n, p.k, p.a_pitch, p.b.pitch, p.c_pitch, p.accumulate, p.a, p.b.data, p.c, kPair<T> == 2);
      return;
    }
  }
  if constexpr (std::is_same_v<T, acc_t>)
    aten_gemm(p.m, p.n, p.k, p.a, p.a_pitch, p.b.data, p.b.pitch, p.c, p.c_pitch, p.accumulate);
}

}  // namespace

bool has_brgemm(c10::ScalarType operands) {
  static const bool floats = has_instructions<float>() && multiplies<float>();
  return operands == at::kBFloat16 || (operands == at::kFloat && floats);
}

int64_t panel_columns(c10::ScalarType operands) { return has_brgemm(operands) ? kKernelPanel : kAtenPanel; }

c10::ScalarType cpu_gemm_dtype(c10::ScalarType compute) {
  const bool reduced = compute == at::kHalf || (compute == at::kBFloat16 && !multiplies_bfloat16());
  return reduced ? at::kFloat : compute;
}

template <typename T, typename acc_t>
void small_gemm(const Product<T, acc_t>& product) {
  const auto& [m, n, k, a, a_pitch, b, c, c_pitch, accumulate] = product;
  if (k == 0) {  // oneDNN has no such product
    for (int64_t i = 0; !accumulate && i < m; ++i) std::fill_n(c + i * c_pitch, n, acc_t(0));
    return;
  }
  const int64_t step = has_brgemm(c10::CppTypeToScalarType<T>::value) ? kRowsPerCall : m;
  for (int64_t row = 0; row < m; row += step) {
    for (int64_t j = 0, panel = 0; j < n; j += b.columns, ++panel) {
      multiply_panel<T, acc_t>({.m = std::min(step, m - row),
                                .n = std::min(b.columns, n - j),
                                .k = k,
                                .a = a + row * a_pitch,
                                .a_pitch = a_pitch,
                                .b = {b.data + panel * b.step, b.columns, b.pitch, b.step},
                                .c = c + row * c_pitch + j,
                                .c_pitch = c_pitch,
                                .accumulate = accumulate});
    }
  }
}

at::Tensor to_panels(const at::Tensor& b) {
  const int64_t k = b.size(0), n = b.size(1),
                pair = b.scalar_type() == at::kBFloat16 ? kPair<c10::BFloat16> : 1,
                panel = panel_columns(b.scalar_type()), panels = divide_up(n, panel);
  return at::constant_pad_nd(b, {0, panels * panel - n})
      .reshape({k / pair, pair, panels, panel})
      .permute({2, 0, 3, 1})
      .contiguous();
}

template <typename T>
SmallGemmScope<T>::~SmallGemmScope() {
  if constexpr (kPair<T> == 2) brgemm_release();
}

template void small_gemm(const Product<double, double>&);
template void small_gemm(const Product<float, float>&);
template void small_gemm(const Product<c10::BFloat16, float>&);
template struct SmallGemmScope<double>;
template struct SmallGemmScope<float>;
template struct SmallGemmScope<c10::BFloat16>;

}  // namespace spanbert_ext
