#!/usr/bin/env bash
# test-aarch64.sh: cross-builds the library for aarch64 into build-aarch64/ and runs its tests in qemu's emulation.
# Needs the source tree of llama.cpp that scripts/build.sh unpacks (or LLAMA_CPP_DIR); builds no more of it than
# ggml-base, which reads and writes GGUF.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

readonly llama_dir=${LLAMA_CPP_DIR:-$root/.deps/llama.cpp}
readonly ggml_build=$root/build-aarch64/llama.cpp

# on_cpu NAME GTQ_CPU: whether a processor of that name runs attention with the kernel that GTQ_CPU forces.
on_cpu() {
  GTQ_CPU=$2 qemu-aarch64 -cpu "$1" -L /usr/aarch64-linux-gnu "$root/build-aarch64/bin/gtq_tests" \
    --gtest_filter=Attention.ThreadsAgree
}

refused_on_cpu() {
  { on_cpu "$@" || true; } | grep 'is not a kernel this machine can run'
}

cd "$root"
[ -f "$llama_dir/ggml/CMakeLists.txt" ] || die "no source tree of llama.cpp at $llama_dir; run scripts/build.sh first"
"$root/scripts/install-deps.sh" g++-aarch64-linux-gnu qemu-user
launchers=()
if command -v ccache >/dev/null; then
  launchers=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

echo "building (aarch64)" >&2
quietly aarch64-ggml-configure cmake -S "$llama_dir" -B "$ggml_build" -G Ninja \
  -DCMAKE_TOOLCHAIN_FILE="$root/cmake/aarch64.cmake" -DCMAKE_BUILD_TYPE=Debug -DBUILD_SHARED_LIBS=ON \
  -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF -DLLAMA_BUILD_COMMON=OFF "${launchers[@]}"
quietly aarch64-ggml-build cmake --build "$ggml_build" --parallel "$(nproc)" --target ggml-base
quietly aarch64-configure cmake --preset aarch64 -DLLAMA_CPP_DIR="$llama_dir" "${launchers[@]}"
quietly aarch64-build cmake --build --preset aarch64 --parallel "$(nproc)"

echo "testing (aarch64)"
ctest --preset aarch64 --no-tests=error --timeout 600 --parallel "$(nproc)" </dev/null
# Dot products came with Armv8.2: the Cortex-A72 has none, the A76 has.
quietly aarch64-a76 on_cpu cortex-a76 neon
quietly aarch64-a72 on_cpu cortex-a72 generic
quietly aarch64-a72-neon refused_on_cpu cortex-a72 neon
