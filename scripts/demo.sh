#!/usr/bin/env bash
# demo.sh [MODEL]: builds everything, then compares the KV caches of stock llama.cpp with gtq's on this machine.
# MODEL is a name of scripts/get-model.sh (default smollm2-135m) or the path of a GGUF. All numbers come from
# unmodified llama.cpp programs; `gtq run` only sets their environment. Logs: build/demo/.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

readonly recipes=(f16 q8_0 q4_0 k4v4 k3v3)
readonly text=$root/data/demo.txt out=$root/build/demo
readonly gtq=$root/build/bin/gtq llama_bin=$root/build/llama.cpp/bin
# The prompt is the whole text and the first words of it again: what follows was said some 2,400 tokens ago.
readonly prompt_end="The ferry to Halvorsen's Landing left at ten past six, or whenever"
readonly n_predict=64 n_ctx=4096 kld_ctx=256

# A packed cache must come from `gtq run` alone, and the other recipes must be stock.
unset GGML_BACKEND_PATH GTQ_KV GTQ_PROFILE GTQ_RECIPE

# with_recipe RECIPE PROGRAM ARGS...: a stock program with the KV cache of that recipe.
with_recipe() {
  local recipe=$1 program=$2
  shift 2
  set -- --model "$model" --threads "$(nproc)" --verbosity 4 "$@"
  case $recipe in
    f16) "$llama_bin/$program" "$@" ;;
    q*) "$llama_bin/$program" "$@" --cache-type-k "$recipe" --cache-type-v "$recipe" ;;
    *) "$gtq" run --kv "$recipe" --profile "$profile" -- "$program" "$@" ;;
  esac
}

# logged FILE COMMAND...: standard output passes, the program's log goes to build/demo/FILE.
logged() {
  local log=$out/$1
  shift
  if "$@" 2>"$log" </dev/null; then return 0; fi
  tail -n 20 "$log" >&2
  die "a program failed; the whole log is ${log#"$root"/}"
}

complete() {
  logged "complete-$1.log" with_recipe "$1" llama-completion --ctx-size "$n_ctx" --file "$out/prompt.txt" \
    --predict "$n_predict" --temp 0 --ignore-eos --no-conversation --no-display-prompt >"$out/complete-$1.txt"
}

# One sequence at a time (batch = context), so that the memory of a demo stays small.
measure_kld() {
  local mode=(--kl-divergence)
  if [ "$1" = f16 ]; then mode=(--file "$text"); fi
  logged "kld-$1.log" with_recipe "$1" llama-perplexity --ctx-size "$kld_ctx" --batch-size "$kld_ctx" \
    --kl-divergence-base "$out/base.kld" "${mode[@]}" >>"$out/kld-$1.out"
}

# ---- numbers, each from the log of llama.cpp

# A model with sliding windows has two caches: add up.
kv_mib() {
  awk '/KV buffer size =/ { sub(/.*KV buffer size = */, ""); sum += $1 } END { printf "%.2f", sum }' \
    "$out/complete-$1.log"
}

tokens_per_second() {
  awk '/eval time =/ && !/prompt eval time/ && match($0, /[0-9.]+ tokens per second/) {
         split(substr($0, RSTART, RLENGTH), word, " "); speed = word[1]
       } END { print speed }' "$out/complete-$1.log"
}

# statistic RECIPE NAME: the number behind "NAME:" in the summary of llama-perplexity.
statistic() {
  cat "$out/kld-$1.log" "$out/kld-$1.out" | sed -n "s/.*$2: *\([0-9.-]*\).*/\1/p" | tail -n 1
}

# llama.cpp goes on with its own cache when a plugin steps aside; here that would be a false result.
check_packed() {
  local recipe
  for recipe in k4v4 k3v3; do
    if awk -v size="$(kv_mib "$recipe")" -v f16="$(kv_mib f16)" 'BEGIN { exit !(size > 0 && size < f16 / 2) }'; then
      continue
    fi
    grep -h 'gtq:' "$out/complete-$recipe.log" >&2 || true
    die "the cache was not packed with $recipe; the reason is above or in build/demo/complete-$recipe.log"
  done
}

print_texts() {
  local recipe
  for recipe in f16 k4v4 k3v3; do
    printf '\n[%s] %s' "$recipe" "$prompt_end"
    tr -s '\n' ' ' <"$out/complete-$recipe.txt"
    echo
  done
}

print_table() {
  local recipe f16 mib kld top
  f16=$(kv_mib f16)
  printf '\n%-7s %15s %13s %16s %10s %14s\n' \
    recipe 'true bits/value' 'KV cache, MiB' 'decode, tokens/s' 'mean KLD' 'same top token'
  for recipe in "${recipes[@]}"; do
    mib=$(kv_mib "$recipe") kld='(base)' top='(base)'
    if [ "$recipe" != f16 ]; then
      kld=$(statistic "$recipe" 'Mean *KLD')
      top="$(statistic "$recipe" 'Same top p') %"
    fi
    printf '%-7s %15s %13s %16s %10s %14s\n' "$recipe" \
      "$(awk -v a="$mib" -v b="$f16" 'BEGIN { printf "%.3f", 16 * a / b }')" \
      "$mib" "$(tokens_per_second "$recipe")" "$kld" "$top"
  done
  cat <<NOTE

$(basename "$model"), $(nproc) threads, one run each. True bits: 16 x size / size of f16, so scales count.
KV cache: as llama.cpp logs it, $n_ctx tokens. Decode: $n_predict tokens behind a prompt of $(prompt_tokens "$out/complete-f16.log") tokens.
KLD: of the next token against f16, $(basename "$text") in chunks of $kld_ctx tokens.
NOTE
}

[ $# -le 1 ] || die "usage: scripts/demo.sh [MODEL]"
"$root/scripts/install-deps.sh"
"$root/scripts/build.sh"
model=$(find_model "${1:-smollm2-135m}")
rm -rf "$out"
mkdir -p "$out"
trap 'rm -f "$out/base.kld"' EXIT # some 100 to 400 MB
profile=$out/$(basename "$model" .gguf).gtq.gguf
printf '%s\n* * *\n\n%s' "$(cat "$text")" "$prompt_end" >"$out/prompt.txt"

echo "calibrating" >&2
logged calibrate.log "$gtq" calibrate -m "$model" -o "$profile" >"$out/calibrate.out"
for recipe in "${recipes[@]}"; do
  echo "measuring $recipe" >&2
  complete "$recipe"
  measure_kld "$recipe"
done
check_packed
print_texts
print_table
