# shellcheck shell=bash
# What the scripts share: where the repository is, one sentence on failure, quiet steps with a log.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly log_dir=$root/build/log

# die SENTENCE: says what to do and stops.
die() {
  echo "${0##*/}: $1" >&2
  exit 1
}

# quietly NAME COMMAND...: runs the command into build/log/NAME.log and shows the end of it only on failure.
quietly() {
  local log=$log_dir/$1.log
  shift
  mkdir -p "$log_dir"
  if "$@" >"$log" 2>&1 </dev/null; then return 0; fi
  grep '^FAILED' "$log" >&2 || true # ninja's word for a step whose message may be far above the end
  tail -n 30 "$log" >&2
  echo "${0##*/}: failed; the whole log is ${log#"$root"/}" >&2
  return 1
}

# is_file_with SHA256 FILE: whether the file is there and whole.
is_file_with() {
  [ -f "$2" ] && echo "$1  $2" | sha256sum --check --status
}

# find_model NAME|FILE: prints the path of a GGUF; fetches it when it is a name of scripts/get-model.sh.
find_model() {
  case $1 in
    */* | *.gguf)
      [ -f "$1" ] || die "there is no file $1"
      realpath "$1"
      ;;
    *)
      "$root/scripts/get-model.sh" "$1" >&2
      echo "$root/models/$1.gguf"
      ;;
  esac
}

# prompt_tokens LOG: how many tokens of the prompt llama.cpp says it has read.
prompt_tokens() { sed -n 's|.*prompt eval time =.*/ *\([0-9]*\) tokens.*|\1|p' "$1" | tail -n 1; }
