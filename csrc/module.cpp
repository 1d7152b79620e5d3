// The Python module `_C`: plain build facts. Importing it registers the operators (registration.cpp).
#include <pybind11/pybind11.h>

#include "common/cpu_capability.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.def("build_info", [] {
    py::dict info;
    info["torch_version"] = SPANBERT_EXT_TORCH_VERSION;
    info["torch_cuda_version"] = SPANBERT_EXT_TORCH_CUDA_VERSION;
    info["compiler"] = __VERSION__;
    info["cpu_capabilities"] = SPANBERT_EXT_CAPABILITIES;
    info["cpu_capability"] = spanbert_ext::capability_name(spanbert_ext::cpu_capability());
    return info;
  });
}
