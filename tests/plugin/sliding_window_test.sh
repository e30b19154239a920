#!/usr/bin/env bash
# sliding_window_test.sh GTQ PLUGIN LLAMA_BIN MODEL TEXT: a model with two caches, one of which reuses its cells when
# the window has passed them (-ub 128 makes it smaller than the text).
set -euo pipefail
gtq=$1 plugin=$2 llama=$3 model=$4 text=$5
[ -f "$model" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

perplexity() {
  "$llama/llama-perplexity" -m "$model" -f "$text" -c 1024 -b 1024 -ub 128 --chunks 1 -t 1 -fa on \
    --kl-divergence-base "$dir/base" "$@" </dev/null >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
}
# expect NAME LOW HIGH: what the last run says.
expect() {
  [ "$(grep -c '^gtq: recipe gtq k4v4' "$dir/log")" = 2 ] || { echo "$1: not two packed caches"; cat "$dir/log"; exit 1; }
  awk -v name="$1" -v lo="$2" -v hi="$3" '/Mean +KLD/ { kld = $3 } END { print name ": mean KLD", kld; exit !(kld > lo && kld < hi) }' \
    "$dir/log"
}
"$gtq" calibrate -m "$model" -o "$dir/p.gtq.gguf" -t 1
perplexity
GGML_BACKEND_PATH=$plugin GTQ_PROFILE=$dir/p.gtq.gguf GTQ_KV=k4v4 perplexity --kl-divergence
expect k4v4 0.004 0.04
GGML_BACKEND_PATH=$plugin GTQ_PROFILE=$dir/p.gtq.gguf GTQ_KV=k4v4r128 perplexity --kl-divergence
expect k4v4r128 0.002 0.012  # k4v4 alone has 0.016
# Both caches are staged for the first 512 tokens, and packed at once; those tokens are not scored.
XDG_CACHE_HOME=$dir GGML_BACKEND_PATH=$plugin GTQ_KV=k4v4 perplexity --kl-divergence
expect "k4v4, calibrating" 0.003 0.04
