# SPDX-License-Identifier: Apache-2.0
# Locates the installed torch without find_package(Torch), which needs a complete CUDA toolkit and adds
# -gencode flags of its own. Nothing is imported: tools/installed_torch.py reads torch's version.py as text.
#
# In:  SPANBERT_EXT_TORCH_DIR (the `torch` package folder; empty: the one that Python_EXECUTABLE sees)
# Out: SPANBERT_EXT_TORCH_DIR, TORCH_VERSION, TORCH_CUDA_VERSION (empty for a CPU build), target torch::installed

execute_process(
  COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/tools/installed_torch.py" ${SPANBERT_EXT_TORCH_DIR}
  OUTPUT_VARIABLE _torch COMMAND_ERROR_IS_FATAL ANY)
list(GET _torch 0 SPANBERT_EXT_TORCH_DIR)
list(GET _torch 1 TORCH_VERSION)
list(GET _torch 2 TORCH_CUDA_VERSION)
message(STATUS "torch ${TORCH_VERSION} in ${SPANBERT_EXT_TORCH_DIR}")

add_library(torch::installed INTERFACE IMPORTED)
target_include_directories(
  torch::installed SYSTEM INTERFACE "${SPANBERT_EXT_TORCH_DIR}/include"
                                    "${SPANBERT_EXT_TORCH_DIR}/include/torch/csrc/api/include")

# Links torch's own libraries by path: no other copy may come first.
function(link_torch_libraries target)
  foreach(name IN LISTS ARGN)
    find_library(library ${name} PATHS "${SPANBERT_EXT_TORCH_DIR}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
    target_link_libraries(${target} INTERFACE "${library}")
    unset(library)
  endforeach()
endfunction()
link_torch_libraries(torch::installed c10 torch_cpu)

# at::parallel_for runs on the OpenMP runtime that torch itself has loaded: a second one would be a second pool.
file(GLOB _openmp "${SPANBERT_EXT_TORCH_DIR}/lib/libgomp*.so*" "${SPANBERT_EXT_TORCH_DIR}/../torch.libs/libgomp*.so*"
     "${SPANBERT_EXT_TORCH_DIR}/lib/libomp*.dylib")
if(_openmp)
  list(GET _openmp 0 _openmp)
  target_link_libraries(torch::installed INTERFACE "${_openmp}")
endif()
