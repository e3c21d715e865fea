#!/usr/bin/env bash
# Builds the libFuzzer targets (preset `fuzz`, clang-14) and runs each of them from a copy of its corpus.
#
#   tests/fuzz/run.sh SECONDS [NAME...]    seconds for each target; names without _fuzz (default: all)
#
# What is found lies in build/fuzz/found/<name>-crash-*, and the command fails. Limits: 512 MiB in all, 256 MiB for one
# allocation, 5 seconds for one input.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
seconds=${1:-}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: tests/fuzz/run.sh SECONDS [NAME...]" >&2; exit 2; }
shift
names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
  for source in tests/fuzz/*_fuzz.cpp; do names+=("$(basename "$source" _fuzz.cpp)"); done
fi

cmake --preset fuzz
cmake --build build/fuzz --target "${names[@]/%/_fuzz}"

# Memory that was freed counts until it leaves the sanitizer's quarantine (256 MiB unless told): images of 8192 x 4096
# pixels are read, and a few of them that follow each other would be "out of memory".
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}quarantine_size_mb=8

found=build/fuzz/found
mkdir -p "$found"
failed=()
for name in "${names[@]}"; do
  echo "== fuzz $name, $seconds s"
  corpus=$(mktemp -d)
  cp -r "tests/fuzz/corpus/$name/." "$corpus"
  build/fuzz/bin/"${name}"_fuzz -max_total_time="$seconds" -rss_limit_mb=512 -malloc_limit_mb=256 -timeout=5 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$found/$name-" "$corpus" || failed+=("$name")
  rm -rf "$corpus"
done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "error: fuzzing found something in: ${failed[*]} (inputs in $found)" >&2
  exit 1
fi
