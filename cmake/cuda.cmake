# The CUDA library gtq_cuda, when GTQ_CUDA asks for it or is AUTO and a CUDA compiler is found. Never with the host's
# sanitizers: nvcc does not take their flags, and compute-sanitizer is the tool for kernels.
if(GTQ_CUDA STREQUAL "OFF" OR GTQ_SANITIZE)
  return()
endif()
include(CheckLanguage)
if(NOT CMAKE_CUDA_COMPILER)
  find_program(GTQ_NVCC nvcc HINTS /usr/local/cuda/bin)
  if(GTQ_NVCC)
    set(CMAKE_CUDA_COMPILER ${GTQ_NVCC})
  endif()
endif()
set(CMAKE_CUDA_ARCHITECTURES ${GTQ_CUDA_ARCHITECTURES})
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT GTQ_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "GTQ_CUDA is ${GTQ_CUDA} but no CUDA compiler was found; install CUDA 12.8 or newer")
  endif()
  return()
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know the flag
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)

file(GLOB GTQ_CUDA_SOURCES CONFIGURE_DEPENDS src/cuda/*.cc src/cuda/*.cu)
add_library(gtq_cuda STATIC ${GTQ_CUDA_SOURCES})
target_include_directories(gtq_cuda PRIVATE src)
target_link_libraries(gtq_cuda PUBLIC gtq_core CUDA::cudart_static)
target_compile_options(gtq_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Wconversion,-Wno-sign-conversion>")
# The encoder must round as the CPU's does: no fused multiply-adds.
set_source_files_properties(src/cuda/store.cu PROPERTIES COMPILE_OPTIONS "--fmad=false")
