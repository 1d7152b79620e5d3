// SPDX-License-Identifier: Apache-2.0
#include "brgemm.h"

#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(spanbert_ext_tuning, m) {
  m.def("threads_with_tiles", [] { return spanbert_ext::emulated_brgemm::threads_with_tiles.load(); });
}
