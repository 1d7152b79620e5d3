// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace spanbert_ext {

// Asks for pages of 2 MB behind a tensor that nothing has written yet. With pages of 4 kB the first write of each is a
// page fault, about 2 us in a virtual machine: 31,000 of them in a step of base's size, of 4,096 tokens.
inline void want_huge_pages(const at::Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20, kLeast = 4 * kHugePage;
  if (tensor.nbytes() < kLeast) return;
  // Whole pages of the tensor's own.
  const uintptr_t data = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (data + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (data + tensor.nbytes()) / kHugePage * kHugePage;
  madvise(reinterpret_cast<void*>(begin), end - begin,
          MADV_HUGEPAGE);  // where it is refused, pages stay small
#else
  static_cast<void>(tensor);
#endif
}

}  // namespace spanbert_ext
