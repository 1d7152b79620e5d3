// SPDX-License-Identifier: Apache-2.0
// The Python module `_C`. Importing it registers the operators (registration.cpp).
#include <pybind11/pybind11.h>

#include "common/cpu_capability.h"

PYBIND11_MODULE(_C, m) {
  // Raises RuntimeError when SPANBERT_EXT_CPU_CAPABILITY has an unknown value.
  m.def("cpu_capability", [] { return spanbert_ext::capability_name(spanbert_ext::cpu_capability()); });
}
