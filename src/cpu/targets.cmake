# Instruction sets of the page kernels: one source (kernel_*.inc.h), compiled once per set. Which one runs is
# decided by src/cpu/dispatch.cc. No -ffast-math: infinities are part of the data.
set(GTQ_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math)
set_source_files_properties(src/cpu/kernel_generic.cc PROPERTIES COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_source_files_properties(src/cpu/kernel_avx2.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};-march=x86-64-v3")
  set_source_files_properties(src/cpu/kernel_avx512.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};-march=x86-64-v4;-mprefer-vector-width=512")
endif()
