#include "common/small_gemm.h"

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <exception>

#include "common/cpu_capability.h"

namespace spanbert_ext {
namespace {

using at::native::cpublas::brgemm;

constexpr int64_t kKernelPanel = 64;   // four vectors of float32: the widest tile of oneDNN's kernels
constexpr int64_t kAtenPanel = 384;    // MKL splits it again; many threads still find enough panels
constexpr int64_t kRowsPerCall = 128;  // of a, for all panels of b: they stay in the L2 cache

// torch has no function that says whether there is a kernel: brgemm throws where one is missing.
template <typename T>
bool multiplies() {
  constexpr int64_t kSize = 16;
  std::array<T, kSize * kSize> ones;
  ones.fill(T(1));
  std::array<float, kSize * kSize> product{};
  try {
    brgemm(kSize, kSize, kSize, kSize, kSize, kSize, false, ones.data(), ones.data(), product.data(),
           kPair<T> == 2);
    at::native::cpublas::brgemm_release();  // the first product sets up the matrix unit
  } catch (const std::exception&) {  // torch's own, or oneDNN's where that has the kernel and not its code
    return false;
  }
  return std::all_of(product.begin(), product.end(), [](float x) { return x == kSize; });
}

bool has_float_kernel() {
  static const bool has = cpu_capability() == Capability::kAvx512 && multiplies<float>();
  return has;
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

}  // namespace

bool has_bfloat16_gemm() {
#if defined(__x86_64__)
  // Without the instruction oneDNN widens every operand; float32 products are faster than that.
  static const bool has =
      has_float_kernel() && __builtin_cpu_supports("avx512bf16") && multiplies<c10::BFloat16>();
  return has;
#else
  return false;
#endif
}

c10::ScalarType cpu_gemm_dtype(c10::ScalarType compute) {
  const bool reduced = compute == at::kHalf || (compute == at::kBFloat16 && !has_bfloat16_gemm());
  return reduced ? at::kFloat : compute;
}

int64_t panel_columns() { return has_float_kernel() ? kKernelPanel : kAtenPanel; }

template <typename T, typename acc_t>
void small_gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_pitch, const T* b, int64_t b_pitch,
                acc_t* c, int64_t c_pitch, bool accumulate) {
  if (m == 0 || n == 0) return;
  if (k == 0) {  // oneDNN has no such product
    for (int64_t i = 0; !accumulate && i < m; ++i) std::fill_n(c + i * c_pitch, n, acc_t(0));
    return;
  }
  if constexpr (std::is_same_v<acc_t, float>) {
    if (has_float_kernel()) {
      brgemm(m, n, k, a_pitch, b_pitch, c_pitch, accumulate, a, b, c, kPair<T> == 2);
      return;
    }
  }
  if constexpr (std::is_same_v<T, acc_t>) aten_gemm(m, n, k, a, a_pitch, b, b_pitch, c, c_pitch, accumulate);
}

at::Tensor to_panels(const at::Tensor& b) {
  const int64_t k = b.size(0), n = b.size(1), pair = b.scalar_type() == at::kBFloat16 ? 2 : 1,
                panel = panel_columns(), panels = (n + panel - 1) / panel;
  return at::constant_pad_nd(b, {0, panels * panel - n})
      .reshape({k / pair, pair, panels, panel})
      .permute({2, 0, 3, 1})
      .contiguous();
}

template <typename T, typename acc_t>
void panel_gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_pitch, const T* panels, acc_t* c,
                int64_t c_pitch, bool accumulate) {
  const int64_t panel = panel_columns(), step = has_float_kernel() ? kRowsPerCall : m;
  for (int64_t row = 0; row < m; row += step) {
    for (int64_t j = 0; j < n; j += panel) {
      small_gemm(std::min(step, m - row), std::min(panel, n - j), k, a + row * a_pitch, a_pitch,
                 panels + j * k, panel, c + row * c_pitch + j, c_pitch, accumulate);
    }
  }
}

SmallGemmScope::~SmallGemmScope() {
  if (has_bfloat16_gemm()) at::native::cpublas::brgemm_release();
}

#define INSTANTIATE(T, acc_t)                                                                         \
  template void small_gemm<T, acc_t>(int64_t, int64_t, int64_t, const T*, int64_t, const T*, int64_t, \
                                     acc_t*, int64_t, bool);                                          \
  template void panel_gemm<T, acc_t>(int64_t, int64_t, int64_t, const T*, int64_t, const T*, acc_t*,  \
                                     int64_t, bool);
INSTANTIATE(double, double)
INSTANTIATE(float, float)
INSTANTIATE(c10::BFloat16, float)

}  // namespace spanbert_ext
