#!/usr/bin/env bash
# The test suite. On a fresh machine it installs what is missing, builds (warnings are errors) and runs everything that fits
# in 40 minutes on two cores.
#
#   tools/test.sh          the suite
#   tools/test.sh --long   and what takes longer: sanitizer builds, fuzzing, kill tests at full length
#
# Tests on real images use the folder in COHORT_DATA and are skipped, visibly, where it is not set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
long=0
[[ ${1:-} == --long ]] && long=1

echo "== packages"
packages=(build test)
[[ $long == 1 ]] && packages+=(long)
tools/install_packages.sh "${packages[@]}"
echo "== build"
cmake --preset release
cmake --build build/release
echo "== tests"
status=0
ctest --test-dir build/release -j "$(nproc)" --output-on-failure --output-junit results.xml || status=$?
if [[ $status != 0 ]]; then
  tests/failures.py build/release/results.xml || true
  exit "$status"
fi

if [[ $long == 1 ]]; then
  echo "== kill tests at full length"
  COHORT_LONG=1 build/release/bin/tools_tests --gtest_filter='Train.Killed*'
  if [[ -x build/release/bin/simt_tests_plain ]]; then
    echo "== every barrier of the CUDA kernels matters"
    tests/simt/mutate_barriers.py build/release
  fi
  if [[ -x build/release/bin/vendor_tests ]]; then
    echo "== cuDNN plans of every model"
    COHORT_LONG=1 build/release/bin/vendor_tests --gtest_filter='CudnnPlans.Every*'
  fi
  for preset in cpu-asan cpu-tsan; do
    echo "== $preset"
    cmake --preset "$preset" -DCOHORT_BENCH=OFF
    cmake --build "build/$preset"
    ctest --test-dir "build/$preset" -j "$(nproc)" --output-on-failure --timeout 3000
  done
  echo "== fuzz"
  tests/fuzz/run.sh 60
fi
