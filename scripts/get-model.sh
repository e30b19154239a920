#!/usr/bin/env bash
# get-model.sh NAME: fetches a small model and writes models/NAME.gguf. scripts/models.txt lists the names.
# Large models come in parts; parts that have arrived are kept until the model is complete and checked, so
# that an interrupted call goes on where it stopped.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

readonly list=$root/scripts/models.txt parts_dir=$root/models/.parts

usage() {
  echo "usage: scripts/get-model.sh NAME, one of:" >&2
  awk '$1 == "model" { name = $2; $1 = $2 = $3 = ""; sub(/^ +/, ""); printf "  %-20s %s\n", name, $0 }' "$list" >&2
  exit 2
}

# Prints "FILE MEMBER SHA256" per part, in order.
parts_of() {
  awk -v name="$1" '$1 == "part" && $2 == name { print $3, $4, $5 }' "$list"
}

fetch_parts() {
  local file sha256
  while read -r file _ sha256; do
    "$root/scripts/fetch-pypi.sh" "$file" "$sha256" "$parts_dir/$file" </dev/null
  done < <(parts_of "$1")
}

join_parts() {
  local file member
  while read -r file member _; do
    unzip -p "$parts_dir/$file" "$member"
  done < <(parts_of "$1")
}

remove_parts() {
  local file
  while read -r file _; do
    rm -f "$parts_dir/$file"
  done < <(parts_of "$1")
  rmdir --ignore-fail-on-non-empty "$parts_dir"
}

[ $# = 1 ] || usage
readonly name=$1 model=$root/models/$1.gguf
sha256=$(awk -v name="$name" '$1 == "model" && $2 == name { print $3 }' "$list")
[ -n "$sha256" ] || usage
if is_file_with "$sha256" "$model"; then exit 0; fi

mkdir -p "$parts_dir"
fetch_parts "$name"
# The joined file gets its name only when it is whole: the name says that the model is good.
join_parts "$name" >"$model.part" || die "cannot write models/$name.gguf; is the disk full?"
is_file_with "$sha256" "$model.part" || die "models/$name.gguf.part does not have the expected checksum"
mv "$model.part" "$model"
remove_parts "$name"
