#!/usr/bin/env bash
# Installs into a scratch folder and builds a small project against the exported package.
#   install_test.sh BUILD_DIR SCRATCH CXX
set -euo pipefail
build=$1 scratch=$2 cxx=$3
rm -rf "$scratch"
mkdir -p "$scratch/project"
cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
"$scratch/prefix/bin/cohort" --version
cat > "$scratch/project/CMakeLists.txt" <<'EOF'
cmake_minimum_required(VERSION 3.25)
project(uses_cohort CXX)
find_package(cohort REQUIRED)
add_executable(uses_cohort main.cpp)
target_link_libraries(uses_cohort PRIVATE cohort::distill)
EOF
cat > "$scratch/project/main.cpp" <<'EOF'
#include "models/registry.h"
int main() {
  return cohort::models::make_network("resnet20", 100)->parameters().num_parameters() == 278324 ? 0 : 1;
}
EOF
cmake -S "$scratch/project" -B "$scratch/project/build" -DCMAKE_PREFIX_PATH="$scratch/prefix" -DCMAKE_CXX_COMPILER="$cxx" >/dev/null
cmake --build "$scratch/project/build" >/dev/null
"$scratch/project/build/uses_cohort"
rm -rf "$scratch"
