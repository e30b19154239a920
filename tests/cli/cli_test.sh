#!/usr/bin/env bash
# cli_test.sh PART GTQ [MODEL]: runs the program as a user would and checks exit codes, the sentence it says and
# what it leaves on disk. Exit 77: skipped, a model or the plugin is missing.
set -u
part=$1 gtq=$2 model=${3:-}
repo=$(cd "$(dirname "$0")/../.." && pwd)
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
export HOME=$here/home XDG_CACHE_HOME=$here/cache
mkdir -p "$HOME"
unset GGML_BACKEND_PATH GTQ_PROFILE GTQ_KV GTQ_RECIPE LLAMA_CACHE HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_HOME
unset LLAMA_ARG_MODEL LLAMA_ARG_HF_REPO LLAMA_ARG_HF_FILE LLAMA_ARG_MODEL_URL LLAMA_ARG_DOCKER_REPO
cd "$here" || exit 1
failures=0

fail() {
  echo "FAIL: $1"
  sed 's/^/  | /' err out 2>/dev/null | head -20
  failures=$((failures + 1))
}

# expect CODE PATTERN COMMAND...: exit code, and exactly one "gtq:" line that matches PATTERN.
expect() {
  local code=$1 pattern=$2
  shift 2
  "$@" >out 2>err
  local got=$?
  [[ $got == "$code" ]] || fail "exit code $got instead of $code: $*"
  [[ $(grep -c '^gtq:' err) == 1 ]] || fail "not exactly one 'gtq:' line: $*"
  grep -Eq "^gtq: .*$pattern" err || fail "no line like '$pattern': $*"
}

# expect_ok PATTERN COMMAND...: exit code 0, standard output matches PATTERN, nothing from gtq on standard error.
expect_ok() {
  local pattern=$1
  shift
  "$@" >out 2>err
  local got=$?
  [[ $got == 0 ]] || fail "exit code $got: $*"
  grep -Eq -e "$pattern" out || fail "no output like '$pattern': $*"
  grep -q '^gtq:' err && fail "unexpected message: $*"
}

expect_no_file() {
  local found
  found=$(find . -name '*.gtq.gguf*' -o -name '*.tmp*')
  [[ -z $found ]] || fail "left behind: $found ($1)"
}

need_model() {
  [[ -f $model ]] || { echo "skipped: no model $model"; exit 77; }
  [[ -f $(dirname "$gtq")/libggml-gtq.so ]] || { echo "skipped: no plugin"; exit 77; }
}

test_arguments() {
  expect_ok '^gtq [0-9]+\.[0-9]+' "$gtq" --version
  expect_ok 'gtq run -- llama-server' "$gtq" --help
  expect_ok 'Example:' "$gtq" calibrate --help
  expect_ok 'Example:' "$gtq" inspect --help
  expect_ok 'PROGRAM ARGUMENTS' "$gtq" run --help
  expect 2 '[Ss]ubcommand' "$gtq"
  expect 2 '' "$gtq" frobnicate
  expect 2 'model' "$gtq" calibrate
  expect 2 '' "$gtq" calibrate -m x.gguf --nonsense
  expect 2 '' "$gtq" calibrate -m x.gguf -n 63
  expect 2 '' "$gtq" calibrate -m x.gguf -c 0
  expect 2 '' "$gtq" calibrate -m x.gguf -t many
  expect 2 'profile' "$gtq" inspect
  expect 2 'k9v4' "$gtq" inspect p.gguf --kv k9v4
  expect 2 'program' "$gtq" run
  expect 2 'program' "$gtq" run --
  expect 2 '' "$gtq" run --nonsense -- true
  local budget
  for budget in k0v4 k4v7 k4 4 k4v4v4 K4V4 k4.125v4 k4.v4 k6.5v4 'k4v4 ' ''; do
    expect 2 '' "$gtq" run --kv "$budget" --recipe f16 -- touch started
  done
  expect 1 'block-gtq and tq-mse take whole bits, the same' "$gtq" run --kv k3.5v4 --recipe tq-mse -- touch started
  expect 2 'magic' "$gtq" run --recipe magic -- touch started
  [[ ! -e started ]] || fail 'the program was started'
  expect_no_file arguments
}

test_files() {
  local long_text
  echo 'not a model' >text.gguf
  : >empty.gguf
  { printf 'GGUF'; head -c 500 /dev/zero | tr '\0' '\377'; } >damaged.gguf
  mkdir folder.gguf
  expect 1 'no model missing.gguf' "$gtq" calibrate -m missing.gguf
  expect 1 'not a GGUF' "$gtq" calibrate -m text.gguf
  expect 1 'not a GGUF' "$gtq" calibrate -m empty.gguf
  expect 1 'folder' "$gtq" calibrate -m folder.gguf
  expect 1 'no text' "$gtq" calibrate -m damaged.gguf -f missing.txt
  expect 1 'folder' "$gtq" calibrate -m damaged.gguf -f .
  expect 1 'folder' "$gtq" calibrate -m damaged.gguf -o folder.gguf
  expect 1 'no folder' "$gtq" calibrate -m damaged.gguf -o nowhere/p.gguf
  expect 1 '' "$gtq" calibrate -m damaged.gguf
  long_text=$(printf 'a%.0s' {1..300})
  expect 1 '' "$gtq" calibrate -m damaged.gguf -o "$long_text.gguf"
  expect 1 '' "$gtq" inspect missing.gtq.gguf
  expect 1 '' "$gtq" inspect text.gguf
  expect 1 '' "$gtq" inspect damaged.gguf
  expect 1 '' "$gtq" inspect folder.gguf
  expect 1 'no program' "$gtq" run --recipe f16 -- no-such-program-anywhere
  expect 1 'not a program' "$gtq" run --recipe f16 -- ./text.gguf
  expect 1 '' "$gtq" run --profile text.gguf -- touch started
  expect 1 '' "$gtq" run --profile missing -- touch started
  # A copy without its plugin.
  mkdir -p alone/bin && cp "$gtq" alone/bin/gtq
  expect 1 'plugin' alone/bin/gtq run --recipe f16 -- touch started
  expect 1 'plugin' alone/bin/gtq calibrate -m damaged.gguf
  [[ ! -e started ]] || fail 'the program was started'
  # A terminal must not obey a file's name.
  expect 1 'no model \?\[2J' "$gtq" calibrate -m $'\e[2J'
  rm -rf alone
  expect_no_file files
}

# Finding the model of a command line; the files are no models, so the message names what was found.
test_hub() {
  [[ -f $(dirname "$gtq")/libggml-gtq.so ]] || { echo "skipped: no plugin"; exit 77; }
  local repo=cache/huggingface/hub/models--someone--Tiny-GGUF
  local snapshot=$repo/snapshots/0123456789012345678901234567890123456789
  expect 1 'no model in the arguments' "$gtq" run -- touch started
  expect 1 'no model a.gguf' "$gtq" run -- touch -m a.gguf
  expect 1 'no model b.gguf' "$gtq" run -- touch -m a.gguf --model b.gguf
  expect 1 'no model b.gguf' "$gtq" run -- touch --model=b.gguf
  expect 1 'no model b.gguf' "$gtq" run touch --model b.gguf
  expect 1 'no model c.gguf' env LLAMA_ARG_MODEL=c.gguf "$gtq" run -- touch
  expect 1 'no model a.gguf' env LLAMA_ARG_MODEL=c.gguf "$gtq" run -- touch -m a.gguf
  expect 1 'one model' "$gtq" run -- llama-bench -m a.gguf,b.gguf
  expect 1 'not downloaded yet; run touch once' "$gtq" run -- touch -hf someone/Tiny-GGUF
  mkdir -p $snapshot/sub $repo/refs
  printf 0123456789012345678901234567890123456789 >$repo/refs/main
  local name
  for name in Tiny-F16 Tiny-Q4_K_M mmproj-Q8_0 Tiny-Q8_0 sub/Tiny-Q5_0-00002-of-00002 sub/Tiny-Q5_0-00001-of-00002
  do echo x >$snapshot/$name.gguf; done
  expect 1 'Tiny-Q4_K_M.gguf is not a GGUF' "$gtq" run -- touch -hf someone/Tiny-GGUF
  expect 1 'Tiny-Q8_0.gguf is not a GGUF' "$gtq" run -- touch -hfr someone/Tiny-GGUF:q8_0
  expect 1 'sub/Tiny-Q5_0-00001-of-00002.gguf is not' "$gtq" run -- touch --hf_repo someone/Tiny-GGUF:Q5_0
  expect 1 'Tiny-F16.gguf is not a GGUF' "$gtq" run -- touch -hf someone/Tiny-GGUF -hff Tiny-F16.gguf
  expect 1 'not downloaded' "$gtq" run -- touch -hf someone/Tiny-GGUF:Q2_K
  expect 1 'Tiny-F16.gguf is not a GGUF' \
    env LLAMA_ARG_HF_REPO=someone/Tiny-GGUF:F16 "$gtq" run -- touch
  mkdir -p other && cp -r cache/huggingface/hub/* other/
  rm -rf cache
  expect 1 'other/.*Tiny-Q4_K_M.gguf is not' env LLAMA_CACHE=other "$gtq" run -- touch -hf someone/Tiny-GGUF
  echo x >other/plain.gguf
  expect 1 'other/plain.gguf is not' \
    env LLAMA_CACHE=other "$gtq" run -- touch -mu 'https://example.org/a/plain.gguf?download=1'
  [[ ! -e started ]] || fail 'the program was started'
  expect_no_file hub
}

test_calibrate() {
  need_model
  ln -s "$model" tiny.gguf
  echo 'Too short.' >short.txt
  : >empty.txt
  printf 'caf\351, an old encoding\n' >latin1.txt
  expect 1 'has [0-9]+ tokens; at least 64' "$gtq" calibrate -m tiny.gguf -f short.txt
  expect 1 'has 0 tokens; at least 64' "$gtq" calibrate -m tiny.gguf -f empty.txt
  head -c 2000000 "$model" >cut.gguf
  expect 1 'cut.gguf' "$gtq" calibrate -m cut.gguf
  cp cut.gguf own.gguf && ln -s own.gguf link.gguf
  expect 1 'model itself' "$gtq" calibrate -m link.gguf -o own.gguf
  expect 1 'latin1.txt is not UTF-8 text .byte 3' "$gtq" calibrate -m tiny.gguf -f latin1.txt
  expect_no_file calibrate
  expect_ok 'tiny.gtq.gguf: profile of .* from 300 tokens' "$gtq" calibrate -m tiny.gguf -n 300
  expect_ok 'true|bits per value' "$gtq" inspect tiny.gtq.gguf
  expect_ok '^budget +k3v2' "$gtq" inspect tiny.gtq.gguf --kv k3v2
  expect_ok '^total: 3.6250 bits per value' "$gtq" inspect tiny.gtq.gguf --kv k3.5v3.5
  expect_ok '"true_bits"' "$gtq" inspect tiny.gtq.gguf --json
  expect_ok '"budget":"k3v3"' "$gtq" inspect tiny.gtq.gguf --kv k3v3 --html
  grep -q GTQ_DATA out && fail 'the page has no data'
  seq 1000 >numbers.txt
  expect_ok 'from 130 tokens' "$gtq" calibrate -m tiny.gguf -f numbers.txt -o other.gtq.gguf -n 130 -c 32 -t 1
  expect_ok 'text: numbers.txt' "$gtq" inspect other.gtq.gguf
  [[ $(ls ./*.tmp* 2>/dev/null) == '' ]] || fail 'temporary files left'
  expect_ok 'from 100 tokens' "$gtq" calibrate -m tiny.gguf -n 100 -o piped.gtq.gguf -f <(yes 'some words')
  # Damage in any part of a profile is refused.
  local size at
  size=$(stat -c %s tiny.gtq.gguf)
  for at in 3 100 $((size / 2)) $((size - 1)); do
    head -c "$at" tiny.gtq.gguf >cut
    expect 1 '' "$gtq" inspect cut
  done
  expect 1 '' "$gtq" inspect "$model"
  expect 1 'standard output' bash -c "'$gtq' inspect tiny.gtq.gguf >/dev/full"
}

test_interrupt() {
  need_model
  ln -s "$model" tiny.gguf
  local signal pid got delay
  for signal in INT TERM HUP; do
    for delay in 0.3 1.5; do
      # A background job of a script ignores SIGINT unless told otherwise.
      env --default-signal "$gtq" calibrate -m tiny.gguf -n 1000000 -t 1 -f <(yes 'words and more words') \
        >out 2>err &
      pid=$!
      sleep $delay
      kill -$signal $pid
      wait $pid
      got=$?
      [[ $got == 130 ]] || fail "exit code $got after SIG$signal"
      [[ $(grep -c '^gtq:' err) == 1 ]] || fail "not one line after SIG$signal"
      expect_no_file "SIG$signal"
    done
  done
  # The same through `gtq run`, whose calibration is a child process.
  for signal in INT TERM; do
    env --default-signal "$gtq" run -- touch -m tiny.gguf started >out 2>err &
    pid=$!
    sleep 0.7
    kill -$signal $pid
    wait $pid
    got=$?
    [[ $got == 130 ]] || fail "run: exit code $got after SIG$signal"
    [[ $(grep -c '^gtq:' err) == 1 ]] || fail "run: not one line after SIG$signal"
    [[ ! -e started ]] || fail 'the program was started after an interrupt'
    expect_no_file "run SIG$signal"
  done
}

test_limits() {
  need_model
  ln -s "$model" tiny.gguf
  # Disk full: a limit on file sizes is the same failed write.
  expect 1 'tiny.gtq.gguf' bash -c "ulimit -f 4; exec '$gtq' calibrate -m tiny.gguf -n 64"
  expect_no_file 'disk full'
  if [[ $(id -u) != 0 ]]; then
    mkdir locked && chmod 555 locked
    expect 1 'locked' "$gtq" calibrate -m tiny.gguf -o locked/p.gguf
  fi
  # Memory: whatever gives up first, it is one sentence, exit 1 and no file; from some limit on it works.
  local mb got
  for mb in $(seq 110 10 400); do
    (ulimit -v $((mb * 1024)) && exec "$gtq" calibrate -m tiny.gguf -n 64) >out 2>err
    got=$?
    [[ $got == 0 ]] && break
    [[ $got == 1 && $(grep -c '^gtq:' err) == 1 ]] || fail "exit code $got at $mb MB"
    expect_no_file "out of memory at $mb MB"
  done
  [[ $got == 0 && $mb -gt 110 ]] || fail "no limit was both tight and enough: $mb MB"
}

test_run() {
  need_model
  ln -s "$model" tiny.gguf
  cat >show.sh <<'END'
#!/bin/sh
echo "kv=$GTQ_KV recipe=$GTQ_RECIPE profile=$GTQ_PROFILE backend=$GGML_BACKEND_PATH args=$*"
exit 42
END
  chmod +x show.sh
  "$gtq" run --kv k3v2 --recipe f16 -- ./show.sh -m tiny.gguf a -- b >out 2>err
  [[ $? == 42 ]] || fail "exit code of the program is lost"
  grep -q '^kv=k3v2 recipe=f16 profile= backend=/.*/libggml-gtq.so args=-m tiny.gguf a -- b$' out || fail 'f16'
  expect_no_file 'f16 needs no profile'
  # First use, two at once: both find a whole profile.
  local i
  for i in 1 2; do "$gtq" run -- ./show.sh --model tiny.gguf >out.$i 2>err.$i & done
  wait
  for i in 1 2; do
    grep -q '^kv=k4v4 recipe=gtq profile=/.*/cache/gtq/tiny-[0-9a-f]\{16\}.gtq.gguf backend' out.$i || fail "run $i"
    [[ $(wc -l <out.$i) == 1 ]] || fail 'standard output is not the program'"'"'s alone'
  done
  [[ $(ls cache/gtq | wc -l) == 1 ]] || fail 'not exactly one profile'
  local profile before
  profile=$(ls cache/gtq/*)
  before=$(stat -c %i "$profile")
  "$gtq" run -- ./show.sh -m tiny.gguf >out 2>err
  [[ $(stat -c %i "$profile") == "$before" ]] || fail 'the profile was made again'
  # With a second model the plugin finds the profile of each; a given one stays.
  local draft
  for draft in '-md' '--model_draft' '-hfd'; do
    "$gtq" run -- ./show.sh -m tiny.gguf "$draft" small >out 2>err
    grep -q '^kv=k4v4 recipe=gtq profile= backend=/' out || fail "run with $draft"
  done
  "$gtq" run --profile "$profile" -- ./show.sh -m tiny.gguf -md small >out 2>err
  grep -q ' profile=/.*/cache/gtq/tiny-' out || fail 'a given profile with a draft model'
  # A damaged one is replaced, a given one refused.
  head -c 1000 "$profile" >damaged
  expect 1 '' "$gtq" run --profile damaged -- ./show.sh -m tiny.gguf
  cp damaged "$profile"
  "$gtq" run -- ./show.sh -m tiny.gguf >out 2>err
  expect_ok 'budget' "$gtq" inspect "$profile"
}

# Quality of caches. f16 through the plugin must be f16 to the last bit; what is packed must differ, and little.
test_eval() {
  need_model
  ln -s "$model" tiny.gguf
  seq 1 3 2000 >numbers.txt
  echo short >short.txt
  expect 2 'model' "$gtq" eval kld -f numbers.txt
  expect 1 'no text' "$gtq" eval kld -m tiny.gguf -f missing.txt
  expect 1 'no cache to measure' "$gtq" eval kld -m tiny.gguf -f numbers.txt --caches q4_0,k9v9
  expect 1 'no cache to measure' "$gtq" eval decode -m tiny.gguf -f numbers.txt --caches k3v3,
  expect 1 'no model missing.gguf' "$gtq" eval decode -m missing.gguf -f numbers.txt
  expect 1 'not enough tokens' "$gtq" eval kld -m tiny.gguf -f short.txt --profile "$(profile_of_tiny)"
  "$gtq" eval kld -m tiny.gguf -f numbers.txt -c 128 --chunks 2 --caches f16,q4_0,k3v3 >out 2>err ||
    fail 'eval kld'
  [[ $(wc -l <gtq-eval/kld.csv) == 4 ]] || fail 'kld.csv has not a row per cache'
  [[ ! -e gtq-eval/base.kld ]] || fail 'the base logits were left'
  awk -F, '$1 == "k3v3" && $2 > 3.1 && $2 < 3.2 && $4 > 0 && $4 < 1 {ok = 1} END {exit !ok}' gtq-eval/kld.csv ||
    fail 'k3v3 in kld.csv'
  "$gtq" eval decode -m tiny.gguf -f numbers.txt -p 64 -n 16 --caches f16,k3v3 >out 2>err || fail 'eval decode'
  grep -q '^| f16 | 16.000 |.* 100.00 | 0 |.* 100.00 | 0 |' out || fail 'f16 is not identical'
  grep -q '^| k3v3 | 3.1' out || fail 'k3v3 has no row'
  grep -q '^| k3v3 .*| 0 |' out && fail 'k3v3 changed nothing'
}

# An interrupt leaves no base logits behind, which may be gigabytes.
test_eval_interrupt() {
  need_model
  ln -s "$model" tiny.gguf
  local signal pid got i
  expect_ok 'from 300 tokens' "$gtq" calibrate -m tiny.gguf -n 300
  for signal in INT TERM; do
    env --default-signal "$gtq" eval kld -m tiny.gguf -f "$repo/data/demo.txt" --profile tiny.gtq.gguf -t 1 >out 2>err &
    pid=$!
    for i in {1..200}; do
      [[ -s gtq-eval/base.kld ]] && break
      sleep 0.1
    done
    [[ -s gtq-eval/base.kld ]] || fail 'no base logits to interrupt'
    kill -$signal $pid
    wait $pid
    got=$?
    [[ $got == 130 && $(grep '^gtq:' err) == 'gtq: interrupted' ]] || fail "exit code $got after SIG$signal"
    sleep 0.2  # for llama-perplexity to end
    [[ ! -e gtq-eval/base.kld ]] || fail "base logits left after SIG$signal"
  done
}

test_needle() {
  need_model
  ln -s "$model" tiny.gguf
  expect 1 'no length' "$gtq" eval needle -m tiny.gguf --lengths 100
  mkdir -p taken/needle.csv
  expect 1 'cannot write taken/needle.csv' "$gtq" eval needle -m tiny.gguf -o taken
  expect_no_file 'found before calibration'
  expect_ok 'from 300 tokens' "$gtq" calibrate -m tiny.gguf -n 300
  expect_ok '^\| k3v3 \| single \| 256 \| (100|0).0 \|$' "$gtq" eval needle -m tiny.gguf --caches k3v3 \
    --tasks single --lengths 256 --depths 1 --profile tiny.gtq.gguf
  grep -Eqx 'k3v3,single,256,0.500,[01].000' gtq-eval/needle.csv || fail 'needle.csv'
  [[ $(wc -l <gtq-eval/needle.csv) == 2 ]] || fail 'needle.csv has more or less than one row'
}

# Attention layer by layer. What the paper claims and what gtq adds must show on any text and model; bounds on
# both sides, since an error that vanishes is a mistake of the meter.
test_logits() {
  need_model
  ln -s "$model" tiny.gguf
  echo short >short.txt
  expect 2 'file' "$gtq" eval logits -m tiny.gguf
  expect 2 'excludes' "$gtq" eval logits -m tiny.gguf -f short.txt --calibrate a --profile b
  expect 2 '' "$gtq" eval logits -m tiny.gguf -f short.txt -n 63
  expect 1 'no model missing.gguf' "$gtq" eval logits -m missing.gguf -f short.txt
  expect 1 'no text missing.txt' "$gtq" eval logits -m tiny.gguf -f missing.txt
  expect 1 'no text missing.txt' "$gtq" eval logits -m tiny.gguf -f short.txt --calibrate missing.txt
  expect 1 '' "$gtq" eval logits -m tiny.gguf -f short.txt --profile short.txt
  expect 1 'short.txt has [0-9]+ tokens; at least 64' \
    "$gtq" eval logits -m tiny.gguf -f short.txt --profile "$(profile_of_tiny)"
  : >file
  expect 1 'cannot make the folder file' "$gtq" eval logits -m tiny.gguf -f short.txt -o file
  [[ ! -e gtq-eval/logits.csv ]] || fail 'a table without a measurement'

  expect_ok 'block-gtq-k3v3' "$gtq" eval logits -m tiny.gguf -f "$repo/data/demo.txt" -n 256 \
    --profile "$(profile_of_tiny)"
  [[ $(wc -l <gtq-eval/logits.csv) == 271 ]] || fail 'not a row for each of 30 layers and 9 caches'
  awk -F, 'NR > 1 {n[$2]++; bits[$2] += $3; mae[$2] += log($5); kld[$2] += log($6); out[$2] += log($7)}
    function mean(of, cache) {return exp(of[cache] / n[cache])}
    function less(of, a, b) {if (!(mean(of, a) < mean(of, b) && mean(of, a) > mean(of, b) / 30)) bad = bad " " a}
    END {
      less(kld, "k3v3", "block-gtq-k3v3"); less(kld, "block-gtq-k3v3", "tq-mse-k3v3")
      less(mae, "k3v3", "block-gtq-k3v3"); less(mae, "block-gtq-k3v3", "tq-mse-k3v3")
      less(out, "k3v3", "block-gtq-k3v3"); less(out, "block-gtq-k3v3", "tq-mse-k3v3")
      less(kld, "k4v4", "k3v3"); less(kld, "k3v3", "k2v2")
      if (bits["k3v3"] / 30 != 3.125 || bits["tq-mse-k3v3"] / 30 != 3.25 || bits["block-gtq-k3v3"] / 30 < 3.5)
        bad = bad " bits"
      print bad; exit bad != ""
    }' gtq-eval/logits.csv >awk.out || fail "not in order: $(cat awk.out)"
}

# Speed: a tiny run, so that only the form of what it says can be checked.
test_bench() {
  local tiny=(--head-dims 64 --groups 2 --lengths "100,300" --kv k3v2 --rounds 1 --spread 0)
  expect 2 '[Ss]ubcommand' "$gtq" bench
  expect_ok 'Example:' "$gtq" bench attention --help
  expect 2 'k9v4' "$gtq" bench attention --kv k9v4
  expect 2 'multiple of 32' "$gtq" bench attention --head-dims 64,80
  expect 2 '' "$gtq" bench attention --means 2
  expect 2 '' "$gtq" bench attention --rounds 0
  expect 2 '' "$gtq" bench attention --lengths many
  expect 1 'magic' "$gtq" bench attention --kernels magic
  expect 1 '200 query rows do not fit 100 cells' "$gtq" bench attention "${tiny[@]}" --rows 200
  expect 1 'no folder' "$gtq" bench attention "${tiny[@]}" -o nowhere/a.json
  expect 1 'no CPU backend of llama.cpp .* in \.;' "$gtq" bench attention "${tiny[@]}" --peer .

  expect_ok '^\| cache \| ns \|' "$gtq" bench attention "${tiny[@]}" --kernels generic -t 2 -o bench.json
  # Two shapes, each with two floors, three caches of ggml and two of gtq; k3v2 takes (3 + 2) * 64 bits and two norms.
  awk -F'|' 'function numbers(from, to,   i) {for (i = from; i <= to; ++i) if ($i !~ /[0-9]/) return 0; return 1}
    /^\|/ && NF != 13 {bad = bad " columns"}
    /^\| (floor|ggml|generic)/ {n++}
    /^\| ggml/ && !(numbers(3, 11) && $12 == " ") {bad = bad " ggml"}
    /^\| ggml q8_0/ && $8 != 136 {bad = bad " q8_0"}
    /^\| generic/ && !(numbers(3, 12) && $3 >= $4 && $8 == 42) {bad = bad " gtq"}
    END {if (n != 14) bad = bad " rows"; print bad; exit bad != ""}' out >awk.out || fail "table: $(cat awk.out)"
  python3 - bench.json <<'END' || fail 'bench.json'
import json, sys
bench = json.load(open(sys.argv[1]))
assert bench["threads"] == 2 and [s["cells"] for s in bench["shapes"]] == [100, 300]
for shape in bench["shapes"]:
    assert [f["name"] for f in shape["floors"]] == ["reading", "generic"]
    caches = {c["name"]: c for c in shape["caches"]}
    assert list(sorted(caches)) == ["generic k3v2", "generic k3v2 means", "ggml f16", "ggml q4_0", "ggml q8_0"]
    packed, f16 = caches["generic k3v2"], caches["ggml f16"]
    assert abs(packed["over_f16"] - f16["ns"] / packed["ns"]) < 1e-3 * packed["over_f16"]
    assert packed["bytes_per_cell"] == 42 and f16["bytes_per_cell"] == 256
END
  expect_ok '^\| cache \| ns \|' "$gtq" bench attention "${tiny[@]}" --peer none
  grep -q '^| ggml' out && fail 'a peer was measured'

  local pid got
  env --default-signal "$gtq" bench attention --rounds 100000 -o never.json >out 2>err &
  pid=$!
  sleep 0.5
  kill -INT $pid
  wait $pid
  got=$?
  [[ $got == 130 ]] || fail "exit code $got after SIGINT"
  [[ $(grep '^gtq:' err) == 'gtq: interrupted' ]] || fail 'not one line after SIGINT'
  [[ ! -e never.json ]] || fail 'a file without a measurement'
}

profile_of_tiny() {
  [[ -e eval.gtq.gguf ]] || "$gtq" calibrate -m tiny.gguf -o eval.gtq.gguf >/dev/null 2>&1
  echo eval.gtq.gguf
}

"test_$part"
[[ $failures == 0 ]] || { echo "$failures checks failed"; exit 1; }
echo "$part: passed"
