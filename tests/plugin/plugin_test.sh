#!/usr/bin/env bash
# plugin_test.sh PLUGIN LLAMA_BIN MODEL PROFILE TEXT: recipes inside stock llama-perplexity, against its own f16 cache.
set -euo pipefail
plugin=$1 llama=$2 model=$3 profile=$4 text=$5
[ -f "$model" ] || exit 77
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

perplexity() { "$llama/llama-perplexity" -m "$model" -f "$text" -c 256 --chunks 4 -t 1 -fa on "$@" </dev/null 2>&1; }
# kld RECIPE BUDGET [OPTION ...]: mean KLD over four sequences.
kld() {
  local recipe=$1 budget=$2
  shift 2
  GGML_BACKEND_PATH=$plugin GTQ_PROFILE=$profile GTQ_RECIPE=$recipe GTQ_KV=$budget \
    perplexity --kl-divergence --kl-divergence-base "$dir/base" "$@" >"$dir/log" || { cat "$dir/log"; exit 1; }
  awk '/Mean +KLD/ {print $3}' "$dir/log"
}
expect() { # expect NAME VALUE LOW HIGH
  awk -v v="$2" -v lo="$3" -v hi="$4" 'BEGIN {exit !(v != "" && v >= lo && v <= hi)}' ||
    { echo "$1: mean KLD '$2' is not in [$3, $4]"; exit 1; }
  echo "$1: mean KLD $2"
}

perplexity --kl-divergence-base "$dir/base" >/dev/null
# Bounds on both sides: an error that shrinks without a reason is a fault too.
expect f16 "$(kld f16 k4v4)" -0.00001 0.00001
expect k4v4 "$(kld gtq k4v4)" 0.004 0.03
grep -q "gtq: recipe gtq k4v4, 4.125 true bits" "$dir/log"
expect k3v3 "$(kld gtq k3v3)" 0.02 0.10
# Fractions: 14 bits per four groups of a key; values of the first 15 of 30 layers have a bit more.
expect k3.5v3.5 "$(kld gtq k3.5v3.5)" 0.008 0.06
grep -q "gtq: recipe gtq k3.5v3.5, 3.625 true bits" "$dir/log"
expect k3.4v3.33 "$(kld gtq k3.4v3.33)" 0.01 0.08
grep -q "gtq: recipe gtq k3.4v3.33, 3.475 true bits" "$dir/log"
# One sequence at a time and four in one unified cache: no different.
expect "k3v3, one sequence" "$(kld gtq k3v3 -b 256)" 0.02 0.10
expect "k3v3, unified" "$(kld gtq k3v3 -kvu)" 0.02 0.10
expect tq-mse "$(kld tq-mse k3v3)" 0.10 1.0

# The last tokens in k6v6: what is read in small batches attends them.
expect "k3v3, batches of 64" "$(kld gtq k3v3 -b 64 -ub 64)" 0.02 0.10
expect "k3v3r128, batches of 64" "$(kld gtq k3v3r128 -b 64 -ub 64)" 0.002 0.02

# A prompt shared by four sequences: copied from stream to stream, and one copy for all.
for unified in -no-kvu -kvu; do
  GGML_BACKEND_PATH=$plugin GTQ_PROFILE=$profile GTQ_KV=k3v3 "$llama/llama-batched-bench" -m "$model" -c 1024 -npp 64 \
    -ntg 8 -npl 1,4 -pps -t 1 "$unified" </dev/null >"$dir/log" 2>&1 || { tail -5 "$dir/log"; exit 1; }
  grep -q "gtq: recipe gtq k3v3" "$dir/log"
done
