// The matrix products inside a task: one thread, operands near its caches, c [m, n] row-major.
//
// oneDNN's brgemm kernels, which torch calls, do them where the CPU has AVX-512: products of operands that a
// core just wrote reach 90 % of its peak there, where one call for the whole matrix reaches 75 %. Elsewhere
// ATen multiplies.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <type_traits>

namespace spanbert_ext {

// Whether bfloat16 operands are faster than float32 ones here; only then may small_gemm be given them.
bool has_bfloat16_gemm();

// What operands to multiply on this CPU for a caller that asked for `compute`: float32 in place of a reduced
// dtype that has no fast products here; it also rounds less.
c10::ScalarType cpu_gemm_dtype(c10::ScalarType compute);

// Columns of b in one product.
int64_t panel_columns();

// Rows of a bfloat16 b lie in pairs: element (i, j) of a panel at [i / 2][j][i % 2], so k is even.
template <typename T>
constexpr int64_t kPair = std::is_same_v<T, c10::BFloat16> ? 2 : 1;

// c = a @ b, or c += a @ b. a [m, k]; b [k, n] with n <= panel_columns() and, for bfloat16, in pairs of rows.
// Each of m, n and k may be 0.
template <typename T, typename acc_t>
void small_gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_pitch, const T* b, int64_t b_pitch,
                acc_t* c, int64_t c_pitch, bool accumulate);

// b [k, n] as panels [n / panel, k / pair, panel, pair], the last one padded with zeros.
at::Tensor to_panels(const at::Tensor& b);

// The same product for any n, with b from to_panels.
template <typename T, typename acc_t>
void panel_gemm(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_pitch, const T* panels, acc_t* c,
                int64_t c_pitch, bool accumulate);

// A thread that multiplied leaves the matrix unit (AMX) as it found it.
struct SmallGemmScope {
  SmallGemmScope() = default;
  SmallGemmScope(const SmallGemmScope&) = delete;
  ~SmallGemmScope();
};

}  // namespace spanbert_ext
