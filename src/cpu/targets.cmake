# Instruction sets of the page kernels: one source (kernel_*.inc.h), compiled once per set. Which one runs is
# decided by src/cpu/dispatch.cc. No -ffast-math: infinities are part of the data.
# -Wno-psabi: vectors wider than the registers are passed among functions of one file only. Reassociation would
# sum a block's dot products before adding them to their sums, and spill them all.
set(GTQ_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-psabi)
# Scheduling before registers are given out, with an eye on their number, halves the spills of a block of four
# pairs in the 16 registers of AVX2.
set(GTQ_AVX2_FLAGS "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND GTQ_KERNEL_FLAGS -fno-tree-reassoc)
  set(GTQ_AVX2_FLAGS -fschedule-insns -fsched-pressure)
endif()
# Instrumented, -O3 takes GCC seven minutes for one of these files.
if(GTQ_SANITIZE)
  list(APPEND GTQ_KERNEL_FLAGS -O1)
endif()
set_source_files_properties(src/cpu/kernel_generic.cc PROPERTIES COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_source_files_properties(src/cpu/encode_avx2.cc PROPERTIES
    COMPILE_OPTIONS "-O3;-fno-math-errno;-fno-trapping-math;-march=x86-64-v3")
  set_source_files_properties(src/cpu/kernel_avx2.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};${GTQ_AVX2_FLAGS};-march=x86-64-v3")
  # GCC 12's own AVX-512 header trips over its way of writing undefined registers.
  set(GTQ_AVX512_FLAGS -Wno-uninitialized -march=x86-64-v4 -mavx512vbmi -mavx512vnni -mprefer-vector-width=512)
  set_source_files_properties(src/cpu/kernel_avx512.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};${GTQ_AVX512_FLAGS}")
  set_source_files_properties(src/cpu/kernel_amx.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};${GTQ_AVX512_FLAGS};-mamx-tile;-mamx-int8")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set_source_files_properties(src/cpu/kernel_neon.cc PROPERTIES
    COMPILE_OPTIONS "${GTQ_KERNEL_FLAGS};-march=armv8.2-a+dotprod")
endif()
