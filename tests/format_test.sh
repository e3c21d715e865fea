#!/usr/bin/env bash
# Every C++ and CUDA source is formatted by .clang-format.
set -euo pipefail
cd "$1"
formatter=$(command -v clang-format-14 || command -v clang-format) || { echo "clang-format is not installed"; exit 77; }
find kernels core nn models distill data tools tests bench -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' |
  xargs "$formatter" --dry-run -Werror
