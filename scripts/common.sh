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
