#!/usr/bin/env bash
# bench-cpu.sh [-r ROUNDS] [-t THREADS] [-b THREADS] [-c CACHES] [-d DEPTHS] [MODEL]: speed of stock llama.cpp at depth.
#
# Every cache reads a text of each depth once and saves its state. Then, in every round, each cache in turn
# restores the state, reads 512 tokens more (pp512) and generates 32 (tg32): caches alternate, so that a machine
# that is shared or changes its clock disturbs all of them alike. Table: median of the rounds, and the ratio to
# f16. Reading 16,384 tokens with a quantized stock cache takes half an hour on 2 cores; states stay in
# build/bench-cpu/ (up to some GB; `rm -r` it to start over) and are used again by the next run.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

readonly n_read=512 n_generate=32
readonly gtq=$root/build/bin/gtq llama_bin=$root/build/llama.cpp/bin
readonly usage="usage: scripts/bench-cpu.sh [-r ROUNDS] [-t THREADS] [-b THREADS_OF_READING] [-c f16,q8_0,k4v4,k3v3] [-d 0,4096,16384] [MODEL]"
rounds=5 threads=2 batch_threads= caches=f16,q8_0,k4v4,k3v3 depths=0,4096

unset GGML_BACKEND_PATH GTQ_KV GTQ_PROFILE GTQ_RECIPE

while getopts r:t:b:c:d: option; do
  case $option in
    r) rounds=$OPTARG ;;
    t) threads=$OPTARG ;;
    b) batch_threads=$OPTARG ;;
    c) caches=$OPTARG ;;
    d) depths=$OPTARG ;;
    *) die "$usage" ;;
  esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || die "$usage"
batch_threads=${batch_threads:-$threads}
[[ $rounds =~ ^[1-9][0-9]*$ && $threads =~ ^[1-9][0-9]*$ && $batch_threads =~ ^[1-9][0-9]*$ ]] || die "$usage"
[[ $depths =~ ^[0-9]+(,[0-9]+)*$ ]] || die "depths are numbers with commas between them, not '$depths'"
readonly bits='[1-6](\.[0-9]?[1-9])?'  # as the plugin prints them, see check_packed
readonly known="(f16|q[458]_[01]|k${bits}v${bits})"
[[ $caches =~ ^$known(,$known)*$ ]] ||
  die "caches are names such as f16, q8_0, q4_0 or k3v3 with commas between them, not '$caches'"
IFS=, read -r -a caches <<<"$caches"
IFS=, read -r -a depths <<<"$depths"

"$root/scripts/build.sh"
model=$(find_model "${1:-qwen2.5-coder-1.5b}")
out=$root/build/bench-cpu/$(basename "$model" .gguf)
readonly out
mkdir -p "$out"

# complete CACHE LOG ARGS...: stock llama-completion with that KV cache.
complete() {
  local cache=$1 log=$2
  shift 2
  set -- llama-completion --model "$model" --threads "$threads" --threads-batch "$batch_threads" --flash-attn on --ctx-size "$n_ctx" --temp 0 \
    --ignore-eos --no-conversation --no-display-prompt --perf "$@"
  case $cache in
    f16) set -- "$llama_bin/$1" "${@:2}" ;;
    q*) set -- "$llama_bin/$1" "${@:2}" --cache-type-k "$cache" --cache-type-v "$cache" ;;
    *) set -- "$gtq" run --kv "$cache" -- "$@" ;;
  esac
  if "$@" >/dev/null 2>"$log" </dev/null; then return 0; fi
  tail -n 20 "$log" >&2
  die "llama-completion failed with $cache; the whole log is ${log#"$root"/}"
}

# llama.cpp goes on with its own cache when a plugin steps aside; here that would be a false result.
check_packed() {
  case $1 in
    k*) grep -q "^gtq: .*$1" "$2" || die "the cache was not packed with $1; see ${2#"$root"/}" ;;
  esac
}

# speed NAME LOG: what llama.cpp prints as "NAME time = ... / N tokens (..., S tokens per second)".
speed() { sed -n "s|.*[^t] $1 time =.*, *\([0-9.]*\) tokens per second.*|\1|p" "$2" | tail -n 1; }

# text BYTES: the demo's text over and over; what it says does not matter to speed.
text() {
  local bytes=$1 made=0 size
  size=$(wc -c <"$root/data/demo.txt")
  while [ "$made" -lt "$bytes" ]; do
    cat "$root/data/demo.txt"
    made=$((made + size))
  done | head -c "$bytes" || true # cat hears that head has enough
}

median_of() { sort -g "$1" | awk '{ x[NR] = $1 } END { printf "%.2f", NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2 }'; }
spread_of() { sort -g "$1" | awk 'NR == 1 { least = $1 } END { printf "%.1f-%.1f", least, $1 }'; }

n_ctx=4096
text 8000 >"$out/probe.txt"
complete f16 "$out/probe.log" --file "$out/probe.txt" --predict 1
bytes_per_token=$(awk -v n="$(prompt_tokens "$out/probe.log")" 'BEGIN { print 8000 / n }')
bytes_of() { awk -v n="$1" -v b="$bytes_per_token" 'BEGIN { printf "%d", n * b }'; }

printf '%s, %s threads (%s when it reads), median (least-most) of %s rounds, tokens per second\n\n' "$(basename "$model")" "$threads" "$batch_threads" "$rounds"
printf '| behind | cache | pp%s | ratio to f16 | tg%s | ratio to f16 |\n| --- | --- | --- | --- | --- | --- |\n' \
  "$n_read" "$n_generate"
for depth in "${depths[@]}"; do
  n_ctx=$(((depth + n_read + n_generate + 512) / 256 * 256))
  text "$(bytes_of "$depth")" >"$out/$depth.txt"
  text "$(bytes_of $((depth + n_read)))" >"$out/$depth-more.txt"
  for cache in "${caches[@]}"; do
    rm -f "$out/$depth-$cache".{read,generate}
    [ "$depth" != 0 ] || continue
    [ -s "$out/$depth-$cache.state" ] ||
      { echo "reading $depth tokens with $cache" >&2
        complete "$cache" "$out/$depth-$cache.first.log" --file "$out/$depth.txt" --predict 1 \
          --prompt-cache "$out/$depth-$cache.new"
        mv "$out/$depth-$cache.new" "$out/$depth-$cache.state"; }
  done
  for ((round = 1; round <= rounds; ++round)); do
    for cache in "${caches[@]}"; do
      log=$out/$depth-$cache.log state=()
      if [ "$depth" != 0 ]; then state=(--prompt-cache "$out/$depth-$cache.state" --prompt-cache-ro); fi
      complete "$cache" "$log" --file "$out/$depth-more.txt" --predict "$n_generate" "${state[@]}"
      check_packed "$cache" "$log"
      [ "$(prompt_tokens "$log")" -lt $((n_read + 64)) ] ||
        die "the state of $cache was not used; remove ${out#"$root"/} and run again"
      speed 'prompt eval' "$log" >>"$out/$depth-$cache.read"
      speed eval "$log" >>"$out/$depth-$cache.generate"
    done
  done
  for cache in "${caches[@]}"; do
    printf '| %s | %s' "$depth" "$cache"
    for what in read generate; do
      file=$out/$depth-$cache.$what
      printf ' | %s (%s)' "$(median_of "$file")" "$(spread_of "$file")"
      if [ -s "$out/$depth-f16.$what" ]; then
        awk -v a="$(median_of "$file")" -v b="$(median_of "$out/$depth-f16.$what")" 'BEGIN { printf " | %.2f", a / b }'
      else
        printf ' | '
      fi
    done
    echo ' |'
  done
done
