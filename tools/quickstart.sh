#!/usr/bin/env bash
# From a fresh machine to three networks that teach each other: installs the packages, builds, trains a small cohort on the
# embedded data set, and shows the table and where the report is.
#
#   tools/quickstart.sh [RUN_FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:-runs/quickstart-$(date +%Y%m%d-%H%M%S)}

echo "== packages"
tools/install_packages.sh build
echo "== build"
# With a GPU and its compiler the binary trains there too; for the CPU alone it is built in half the time.
cuda=OFF
nvidia-smi -L >/dev/null 2>&1 && cuda=AUTO
cmake --preset release -DCOHORT_CUDA=$cuda -DCOHORT_TESTS=OFF -DCOHORT_BENCH=OFF -B build/quickstart >/dev/null
cmake --build build/quickstart --target cohort
echo "== train"
build/quickstart/bin/cohort train --method dml --net resnet8 --net resnet8 --net resnet14 --data shapes \
  --set data.train_images=4000 --set data.test_images=1000 --epochs 6 --batch-size 64 --lr 0.1 --out "$run"
echo
echo "the run is in   $run"
echo "open            $run/report.html"
echo "next            build/quickstart/bin/cohort train --help"
