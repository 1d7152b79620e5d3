# SPDX-License-Identifier: Apache-2.0
# Decides whether CUDA kernels are built; never by looking for a GPU.
#
# In:  SPANBERT_EXT_CUDA  AUTO   when torch is a CUDA build and nvcc is there; else CPU-only, and the reason is kept
#                         ON     or stop with the reason
#                         CHECK  compile without linking: all it needs is nvcc, a CPU torch will do
#                         EMULATE  compile with the C++ compiler and run on the CPU in the place of the CPU kernels: for
#                                tests of the CUDA code where there is no GPU; needs neither nvcc nor a CUDA torch
#                         OFF
#      SPANBERT_EXT_TUNING  needs a mode other than NONE
#      TORCH_CUDA_VERSION, cuda_sources (csrc/*/*.cu, torch-free), cuda_host_sources (csrc/*/*_cuda.cpp)
# Out: cuda_mode          LINK, CHECK, EMULATE or NONE
#      cuda_reason        why the mode is not LINK
#      cuda_architectures what the kernels are compiled for; targets cuda_kernels and cuda::host

set(cuda_mode NONE)
set(cuda_reason "")
set(cuda_architectures "")
set(nvcc_version "")
set_property(CACHE SPANBERT_EXT_CUDA PROPERTY STRINGS AUTO ON OFF CHECK EMULATE)
get_filename_component(_site_packages "${SPANBERT_EXT_TORCH_DIR}" DIRECTORY)

if(NOT SPANBERT_EXT_CUDA MATCHES "^(AUTO|ON|OFF|CHECK|EMULATE)$")
  message(FATAL_ERROR "SPANBERT_EXT_CUDA is '${SPANBERT_EXT_CUDA}'; expected AUTO, ON, OFF, CHECK or EMULATE")
elseif(SPANBERT_EXT_CUDA STREQUAL "OFF")
  set(cuda_reason "switched off by SPANBERT_EXT_CUDA=OFF")
elseif(SPANBERT_EXT_CUDA STREQUAL "EMULATE")
  set(cuda_mode EMULATE)
  set(cuda_reason "compiled for the CPU, as a test of their code (SPANBERT_EXT_CUDA=EMULATE)")
elseif(NOT SPANBERT_EXT_CUDA STREQUAL "CHECK" AND NOT TORCH_CUDA_VERSION)
  set(cuda_reason "torch ${TORCH_VERSION} is a CPU build")
else()
  file(GLOB _pip_nvcc "${_site_packages}/nvidia/cu*")
  find_program(SPANBERT_EXT_NVCC nvcc NO_CACHE PATH_SUFFIXES bin HINTS ENV CUDA_HOME ENV CUDA_PATH
               PATHS /usr/local/cuda ${_pip_nvcc})
  if(SPANBERT_EXT_NVCC)
    execute_process(COMMAND "${SPANBERT_EXT_NVCC}" --version OUTPUT_VARIABLE _nvcc COMMAND_ERROR_IS_FATAL ANY)
    string(REGEX MATCH "release ([0-9]+)\\.([0-9]+)" _ "${_nvcc}")
    set(nvcc_major "${CMAKE_MATCH_1}")
    set(nvcc_version "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}")
  endif()
  if(NOT SPANBERT_EXT_NVCC)
    set(cuda_reason "nvcc was not found (CUDA_HOME, PATH, /usr/local/cuda)")
  elseif(SPANBERT_EXT_CUDA STREQUAL "CHECK")
    set(cuda_mode CHECK)
    set(cuda_reason "compiled as a check only (SPANBERT_EXT_CUDA=CHECK)")
  elseif(NOT TORCH_CUDA_VERSION MATCHES "^${nvcc_major}\\.")
    set(cuda_reason "nvcc is CUDA ${nvcc_version}, torch ${TORCH_VERSION} is built for CUDA ${TORCH_CUDA_VERSION}")
  else()
    set(cuda_mode LINK)
  endif()
endif()

if(SPANBERT_EXT_CUDA STREQUAL "ON" AND NOT cuda_mode STREQUAL "LINK")
  message(FATAL_ERROR "SPANBERT_EXT_CUDA=ON, but ${cuda_reason}")
endif()
if(SPANBERT_EXT_TUNING AND cuda_mode STREQUAL "NONE")
  message(FATAL_ERROR "SPANBERT_EXT_TUNING=ON needs CUDA kernels, but ${cuda_reason}")
endif()
message(STATUS "CUDA kernels: ${cuda_mode} ${cuda_reason}")
if(cuda_mode STREQUAL "NONE")
  return()
endif()
if(cuda_mode STREQUAL "EMULATE")
  add_library(cuda_kernels OBJECT ${cuda_sources} ${cuda_host_sources} tests/emulated_cuda/emulator.cpp)
  set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
  target_compile_definitions(cuda_kernels PUBLIC SPANBERT_EXT_EMULATE_CUDA)
  target_compile_options(cuda_kernels PRIVATE -Wno-unknown-pragmas) # nvcc's `#pragma unroll`
  target_include_directories(cuda_kernels SYSTEM PUBLIC tests/emulated_cuda)
  target_link_libraries(cuda_kernels PRIVATE spanbert_ext_options torch::installed)
  return()
endif()

# TORCH_CUDA_ARCH_LIST="8.0 9.0a+PTX" is how users of torch write it; +PTX adds the virtual architecture.
if(DEFINED ENV{TORCH_CUDA_ARCH_LIST})
  string(REGEX REPLACE "[ ,;]+" ";" _names "$ENV{TORCH_CUDA_ARCH_LIST}")
  foreach(_name IN LISTS _names)
    if(NOT _name MATCHES "^([0-9]+)\\.([0-9])([af]?)(\\+PTX)?$")
      message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST has '${_name}'; expected numbers such as '8.0 9.0a 12.0+PTX'")
    elseif(CMAKE_MATCH_4)
      list(APPEND cuda_architectures "${CMAKE_MATCH_1}${CMAKE_MATCH_2}${CMAKE_MATCH_3}")
    else()
      list(APPEND cuda_architectures "${CMAKE_MATCH_1}${CMAKE_MATCH_2}${CMAKE_MATCH_3}-real")
    endif()
  endforeach()
elseif(DEFINED ENV{CMAKE_CUDA_ARCHITECTURES})
  set(cuda_architectures "$ENV{CMAKE_CUDA_ARCHITECTURES}")
elseif(DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(cuda_architectures "${CMAKE_CUDA_ARCHITECTURES}")
else()
  # 100, without suffix: code and PTX, from which 11.0 and what comes after 12 compile theirs.
  set(cuda_architectures 80-real 86-real 89-real 90-real 100 120-real)
endif()

set(CMAKE_CUDA_ARCHITECTURES "${cuda_architectures}") # unset, CMake would cache a guess of its own
set(CMAKE_CUDA_COMPILER "${SPANBERT_EXT_NVCC}")
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 has no C++20 flag for nvcc 13
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
find_package(CUDAToolkit REQUIRED)

add_library(cuda_kernels OBJECT ${cuda_sources})
target_compile_options(cuda_kernels PRIVATE -Xcompiler=-Wall,-Wextra)
if(SPANBERT_EXT_WERROR)
  target_compile_options(cuda_kernels PRIVATE "SHELL:-Werror all-warnings" -Xcompiler=-Werror)
endif()
target_include_directories(cuda_kernels PRIVATE csrc)
if(SPANBERT_EXT_TUNING)
  target_compile_definitions(cuda_kernels PRIVATE SPANBERT_EXT_TUNING)
endif()

# For the C++ files that include c10/cuda: a CUDA toolkit of nvcc alone lacks cuBLAS' headers, pip's packages have them.
add_library(cuda::host INTERFACE IMPORTED)
file(GLOB _pip_headers "${_site_packages}/nvidia/*/include")
target_include_directories(cuda::host SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS} ${_pip_headers})
if(cuda_mode STREQUAL "LINK")
  link_torch_libraries(cuda::host c10_cuda torch_cuda)
  target_link_libraries(cuda::host INTERFACE CUDA::cudart) # shared: the one that torch loads
else()
  target_compile_definitions(cuda::host INTERFACE C10_CUDA_NO_CMAKE_CONFIGURE_FILE)
endif()
