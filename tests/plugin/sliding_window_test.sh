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
"$gtq" calibrate -m "$model" -o "$dir/p.gtq.gguf" -t 1
perplexity
GGML_BACKEND_PATH=$plugin GTQ_PROFILE=$dir/p.gtq.gguf GTQ_KV=k4v4 perplexity --kl-divergence
[ "$(grep -c '^gtq: recipe gtq k4v4' "$dir/log")" = 2 ] || { echo "not two packed caches"; cat "$dir/log"; exit 1; }
awk '/Mean +KLD/ { kld = $3 } END { print "k4v4: mean KLD", kld; exit !(kld > 0.004 && kld < 0.04) }' "$dir/log"
