#!/usr/bin/env bash
# test.sh: builds everything and runs all tests: release with llama.cpp, then address and thread sanitizer
# (library only: llama.cpp itself is not instrumented), then the format of the sources.
# Last line: "N passed, N failed" over all runs, and ", N skipped" where tests said that they could not run.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

passed=0 failed=0 skipped=0

count() {
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0}))
}

# Adds the numbers of ctest's closing line; a run without one (a crash, no test at all) counts as a failure.
count_ctest() {
  local log=$1 n_failed n_total n_skipped
  read -r n_failed n_total < <(sed -n 's/.*% tests passed, \([0-9]*\) tests failed out of \([0-9]*\).*/\1 \2/p' "$log") ||
    { count 0 1; return; }
  n_skipped=$(grep -c '\*\*\*Skipped' "$log" || true) # ctest counts them as passed
  count $((n_total - n_failed - n_skipped)) "$n_failed" "$n_skipped"
}

run_preset() {
  local preset=$1 log=$log_dir/ctest-$1.log
  if ! "$root/scripts/build.sh" --preset "$preset"; then
    count 0 1
    return
  fi
  echo "testing ($preset)"
  # With its output: a failing test shows why, and a hanging one its name.
  ctest --preset "$preset" --no-tests=error --timeout 600 --parallel "$(nproc)" 2>&1 </dev/null |
    tee "$log" || true
  count_ctest "$log"
}

# Names the files only; `clang-format -i FILE` mends them.
check_format() {
  local files bad
  mapfile -t files < <(git ls-files '*.cc' '*.h')
  bad=$(clang-format --dry-run -Werror "${files[@]}" 2>&1 | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error.*/\1/p' | sort -u) || true
  if [ -z "$bad" ]; then
    count 1 0
  else
    printf 'not formatted: %s\n' "$bad"
    count 0 1
  fi
}

cd "$root"
"$root/scripts/install-deps.sh" clang-format
"$root/scripts/get-model.sh" smollm2-135m
for preset in release asan tsan; do
  run_preset "$preset"
done
echo "checking the format"
check_format
summary="$passed passed, $failed failed"
if [ "$skipped" != 0 ]; then summary+=", $skipped skipped"; fi
echo "$summary"
[ "$failed" = 0 ]
