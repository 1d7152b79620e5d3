// SPDX-License-Identifier: Apache-2.0
// torch's brgemm as plain loops over the same layouts: what CPUs with AVX-512 and AMX run can be tested on every CPU.
#pragma once

#include <ATen/Context.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdint>

namespace spanbert_ext::emulated_brgemm {

// Threads whose matrix unit still holds tiles.
inline std::atomic<int64_t> threads_with_tiles = 0;
inline thread_local bool has_tiles = false;

// c [m, n] = a [m, k] @ b [k, n], or c += it; with `pairs` element (l, j) of b is at [l / 2][j][l % 2].
template <typename T>
void brgemm(int64_t m, int64_t n, int64_t k, int64_t a_pitch, int64_t b_pitch, int64_t c_pitch,
            bool accumulate, const T* a, const T* b, float* c, bool pairs) {
  const int64_t pair = pairs ? 2 : 1;
  TORCH_CHECK(pairs == (sizeof(T) == 2) && m > 0 && n > 0 && k > 0 && k % pair == 0 && a_pitch >= k &&
                  b_pitch >= n && c_pitch >= n,
              "brgemm cannot multiply [", m, ", ", k, "] by [", k, ", ", n, "] with pitches ", a_pitch, ", ",
              b_pitch, " and ", c_pitch);
  TORCH_CHECK(!pairs || at::globalContext().userEnabledMkldnn(),
              "torch has no product of pairs while oneDNN is off");
  if (pairs && !has_tiles) {
    has_tiles = true;
    ++threads_with_tiles;
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = accumulate ? c[i * c_pitch + j] : 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += static_cast<float>(a[i * a_pitch + l]) *
               static_cast<float>(b[(l / pair * b_pitch + j) * pair + l % pair]);
      }
      c[i * c_pitch + j] = sum;
    }
  }
}

inline void brgemm_release() {
  if (has_tiles) --threads_with_tiles;
  has_tiles = false;
}

}  // namespace spanbert_ext::emulated_brgemm
