# Locates an installed torch without find_package(Torch), which wants a complete CUDA toolkit and adds
# -gencode flags of its own. Version and CUDA version are read as text: nothing is imported at build time.
#
# In:  SPANBERT_EXT_TORCH_DIR (the `torch` package folder)
# Out: TORCH_VERSION, TORCH_CUDA_VERSION (empty for a CPU build), target torch::installed

if(NOT EXISTS "${SPANBERT_EXT_TORCH_DIR}/version.py")
  message(FATAL_ERROR "SPANBERT_EXT_TORCH_DIR='${SPANBERT_EXT_TORCH_DIR}' is not a torch package folder (no version.py)")
endif()
file(READ "${SPANBERT_EXT_TORCH_DIR}/version.py" _version_py)
string(REGEX MATCH "__version__ = '([^']+)'" _ "${_version_py}")
set(TORCH_VERSION "${CMAKE_MATCH_1}")
set(TORCH_CUDA_VERSION "")
if(_version_py MATCHES "cuda[^=\n]*= '([^']+)'")
  set(TORCH_CUDA_VERSION "${CMAKE_MATCH_1}")
endif()

add_library(torch::installed INTERFACE IMPORTED)
target_include_directories(
  torch::installed SYSTEM INTERFACE "${SPANBERT_EXT_TORCH_DIR}/include"
                                    "${SPANBERT_EXT_TORCH_DIR}/include/torch/csrc/api/include")
foreach(_name IN ITEMS c10 torch_cpu)
  find_library(_lib_${_name} ${_name} PATHS "${SPANBERT_EXT_TORCH_DIR}/lib" NO_DEFAULT_PATH NO_CACHE REQUIRED)
  target_link_libraries(torch::installed INTERFACE "${_lib_${_name}}")
endforeach()
# at::parallel_for runs on the OpenMP runtime that torch itself has loaded: a second one would be a second pool.
file(GLOB _gomp "${SPANBERT_EXT_TORCH_DIR}/lib/libgomp*.so*" "${SPANBERT_EXT_TORCH_DIR}/../torch.libs/libgomp*.so*")
if(_gomp)
  list(GET _gomp 0 _gomp)
  target_link_libraries(torch::installed INTERFACE "${_gomp}")
endif()
