#!/usr/bin/env bash
# Proves and measures the CUDA backend on the machine it runs on, in one go and in at most 8 minutes. Runs from a folder made by
# tools/gpu_pack.sh, or with --emulated from a build folder of a machine without a GPU, to try this script.
#
#   gpu_check.sh RESULTS                            on a GPU
#   tools/gpu_check.sh --emulated BUILD RESULTS     for example build/release: emulated device, PyTorch on the CPU if it is there
#
# Writes RESULTS/summary.md (one line per step), RESULTS/results.json (figures of steps and peers), RESULTS/kernels.json (the
# kernels' benches), RESULTS/log.txt (all output) and RESULTS/conformance.txt (what the intrinsics answered; compare with the
# emulator's). A step that fails or runs out of its time is reported and the others go on. A figure without a GPU means nothing.
#
# Exit status: 0 every check passed, 1 one failed, 2 wrong usage, 77 no usable GPU here, but every binary starts and says so.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
emulated=0
if [[ ${1:-} == --emulated ]]; then
  [[ $# -eq 3 ]] || { echo "usage: gpu_check.sh --emulated BUILD RESULTS" >&2; exit 2; }
  emulated=1 bin=$(cd "$2/bin" && pwd) peers=$here/../bench/peers results=$3
else
  [[ $# -eq 1 ]] || { echo "usage: gpu_check.sh RESULTS" >&2; exit 2; }
  peers=$here/peers results=$1
fi
mkdir -p "$results"
results=$(cd "$results" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ((!emulated)); then
  tar -xzf "$here/binaries.tar.gz" -C "$work" || { echo "error: $here is no folder made by tools/gpu_pack.sh: no binaries.tar.gz" >&2; exit 2; }
  bin=$work/bin
fi
log=$results/log.txt summary=$results/summary.md
: > "$log"
python=$(command -v python3 || true)
begin=$SECONDS failures=0

# PyTorch brings cuDNN and cuBLASLt along; the folders of its packages are searched after the system's.
if [[ -n $python && -z ${COHORT_CUDA_LIBRARIES:-} ]]; then
  COHORT_CUDA_LIBRARIES=$("$python" - <<'PY' 2>/dev/null || true
import glob, os, sys
found = [d for root in sys.path for d in glob.glob(os.path.join(root, "nvidia", "*", "lib"))]
print(":".join(found))
PY
)
  export COHORT_CUDA_LIBRARIES
fi

{
  echo "# GPU check"
  echo
  echo "commit $(cat "$here/commit" 2>/dev/null || git -C "$here" describe --always --dirty 2>/dev/null || echo unknown), $(date -u +%Y-%m-%dT%H:%MZ)"
  if ((emulated)); then
    echo "**emulated device: the figures mean nothing**"
  else
    if command -v nvidia-smi > /dev/null; then
      nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw --format=csv,noheader 2>&1 | head -1
    else
      echo "no nvidia-smi"
    fi
  fi
  echo
  echo "| step | result | seconds |"
  echo "|---|---|---:|"
} > "$summary"

# step NAME LIMIT COMMAND...: one line of the summary; the last line of its output that begins with "= " is the figure shown.
step() {
  local name=$1 limit=$2 start=$SECONDS status figure
  shift 2
  ((emulated)) && limit=$((10 * limit))  # threads one after the other on a CPU
  printf '\n===== %s: %s\n' "$name" "$*" >> "$log"
  timeout -k 5 "$limit" "$@" > "$work/out" 2>&1
  status=$?
  cat "$work/out" >> "$log"
  cp "$work/out" "$work/${name//[^a-z0-9_]/_}.txt"
  figure=$(grep '^= ' "$work/out" | tail -1 | cut -c3-)
  [[ -z $figure ]] && figure=$(grep -E '^\[  (PASSED|SKIPPED|FAILED)' "$work/out" | tr -s ' ' | paste -sd ' ')
  case $status in
    0) result="ok" ;;
    77) result="skipped" ;;
    124 | 137) result="**out of time** ($limit s)" failures=$((failures + 1)) ;;
    *) result="**failed** ($status)" failures=$((failures + 1)) ;;
  esac
  echo "| $name | $result${figure:+: $figure} | $((SECONDS - start)) |" | tee -a "$summary"
}

device=cuda suffix=_gpu_tests only='*cuda*:*Device*' kernel_bench=cohort_bench
if ((emulated)); then
  device=cpu suffix=_tests only='*emulated*:*Device*' kernel_bench=cohort_bench_emulated
fi

tests() { "$bin/$1$suffix" --gtest_brief=1 --gtest_filter="$only${2:+-$2}"; }

sanitize() {  # the kernels' tests under one tool of compute-sanitizer
  command -v compute-sanitizer > /dev/null || { echo "= compute-sanitizer is not installed"; return 77; }
  compute-sanitizer --tool "$1" --error-exitcode 9 "$bin/kernels$suffix" --gtest_brief=1 --gtest_filter="$only"
}

repeats() {  # the same run, again and again, must leave the same weights
  local first="" sum
  for ((i = 1; i <= $1; ++i)); do
    "$bin/cohort" train --method competitive --net resnet8 --net resnet8 --data shapes --set data.train_images=96 --set data.test_images=32 \
      --epochs 2 --batch-size 40 --lr 0.05 --device $device --progress none --out "$work/run" --overwrite > /dev/null || return 1
    sum=$(cat "$work"/run/checkpoints/last/*.safetensors | sha256sum)
    [[ -z $first ]] && first=$sum
    [[ $sum == "$first" ]] || { echo "= run $i differs from the first"; return 1; }
  done
  echo "= $1 runs, the same bits"
}

bench() {  # cohort bench step, one JSON line kept for results.json
  "$bin/cohort" bench step --device $device --json "$@" > "$work/json" || return 1
  [[ -n $python ]] || { echo "= $(tr -s ' \n' ' ' < "$work/json")"; return 0; }
  "$python" - "$work/json" "$work/figures.jsonl" "$*" <<'PY'
import json, sys
record = json.load(open(sys.argv[1]))
record["what"], record["arguments"] = "cohort step", sys.argv[3]
open(sys.argv[2], "a").write(json.dumps(record) + "\n")
print(f"= {record['median_ms']:.3f} ms, {record['images_per_second']:.0f} images/s")
PY
}

kernel_benches() {  # every kernel against its byte formula
  "$bin/$kernel_bench" --benchmark_filter=cuda --benchmark_out="$results/kernels.json" --benchmark_out_format=json || return 1
  [[ -n $python ]] || { echo "= in kernels.json"; return 0; }
  "$python" - "$results/kernels.json" <<'PY'
import json, sys
runs = json.load(open(sys.argv[1]))["benchmarks"]
failed = [r["name"] for r in runs if r.get("error_message", "").startswith("failed")]
measured = [r for r in runs if not r.get("error_occurred")]
aimed = [r for r in measured if "target_us" in r]
missed = [r for r in aimed if r["median_us"] > r["target_us"]]
for r in missed:
    print(f"missed: {r['name']}: {r['median_us']:.2f} us, aim {r['target_us']:.2f}")
copies = [r["GB/s"] for r in measured if r["name"].startswith("copy/")]
print(f"= {len(measured)} measured, copy {max(copies, default=0):.0f} GB/s, {len(aimed) - len(missed)} of {len(aimed)} targets met, {len(failed)} failed")
sys.exit(1 if failed else 0)
PY
}

peer() {  # a script of bench/peers; its JSON lines are kept
  local script=$1
  shift
  "$python" -c 'import torch; assert hasattr(torch, "compile")' 2> /dev/null || { echo "= no PyTorch 2 here"; return 77; }
  (cd "$peers" && "$python" "$script" "$@") | tee "$work/peer"
  local status=${PIPESTATUS[0]}
  grep '^{' "$work/peer" >> "$work/figures.jsonl"
  return "$status"
}
export -f tests sanitize repeats bench kernel_benches peer
export bin suffix only device work python peers results kernel_bench

if ((!emulated)) && [[ $("$bin/cohort" doctor 2>&1) == *" no device: "* ]]; then
  step "cohort starts" 20 "$bin/cohort" doctor
  for name in kernels core ops distill; do
    step "$name$suffix starts" 60 bash -c "tests $name"
  done
  step "simt_conformance_device starts" 20 "$bin/simt_conformance_device" --gtest_brief=1
  step "$kernel_bench starts" 60 "$bin/$kernel_bench" --benchmark_filter=cuda
  { echo; echo "**no GPU here: nothing was checked**; $failures of the binaries do not run"; } | tee -a "$summary"
  ((failures == 0)) && exit 77
  exit 1
fi

if ((emulated)); then
  step "conformance of the emulator" 60 env SIMT_GOLDEN="$results/conformance.txt" "$bin/simt_tests_plain" --gtest_brief=1 --gtest_filter='*onform*'
else
  step "conformance of the intrinsics" 30 env SIMT_GOLDEN="$results/conformance.txt" "$bin/simt_conformance_device" --gtest_brief=1
fi
step "doctor" 20 "$bin/cohort" doctor
step "kernels" 60 bash -c 'tests kernels'
step "core" 30 bash -c 'tests core'
step "ops: gradients against differences" 60 bash -c 'tests ops'
step "training: device against CPU, replay against eager, resume" 90 bash -c 'tests distill'
if ((!emulated)); then
  for tool in memcheck racecheck initcheck synccheck; do
    step "compute-sanitizer $tool" 45 bash -c "sanitize $tool"
  done
  step "100 repeats" 90 bash -c 'repeats 100'
  steps=2000 net="--net resnet32"
  for precision in bf16 tf32 f32; do
    step "resnet32 x2 dml $precision" 30 bash -c "bench --method dml $net $net --batch-size 128 --steps $steps --warmup 50 --precision $precision"
  done
  step "resnet32 x2 dml bf16, no graph" 30 bash -c "bench --method dml $net $net --batch-size 128 --steps 500 --warmup 50 --precision bf16 --no-graph"
  step "resnet32 x1 bf16" 30 bash -c "bench --method independent $net --batch-size 128 --steps $steps --warmup 50 --precision bf16"
  step "resnet32 x3 dml bf16" 30 bash -c "bench --method dml $net $net $net --batch-size 128 --steps $steps --warmup 50 --precision bf16"
  step "resnet32 + wrn_16_2 dml bf16" 30 bash -c "bench --method dml $net --net wrn_16_2 --batch-size 128 --steps $steps --warmup 50 --precision bf16"
  step "kernels: time against bytes" 150 bash -c kernel_benches
  step "peer: eager and captured steps" 120 bash -c 'peer gpu_step.py --peer eager,graph --steps 1000'
  step "peer: losses" 60 bash -c 'peer gpu_losses.py --rows 128,8192 --members 2'
  step "peer: features, images, optimiser" 45 bash -c 'peer gpu_kernels.py'
else
  step "2 repeats" 90 bash -c 'repeats 2'
  step "kernels: time against bytes" 150 bash -c kernel_benches
  step "resnet8 x2 dml" 60 bash -c 'bench --method dml --net resnet8 --net resnet8 --batch-size 8 --steps 2 --warmup 1'
  step "peer: eager step" 90 bash -c 'peer gpu_step.py --device cpu --peer eager --models resnet8,resnet8 --batch 4 --steps 2 --warmup 1'
  step "peer: losses" 60 env TRITON_INTERPRET=1 bash -c 'peer gpu_losses.py --device cpu --rows 8 --classes 10 --members 2'
fi

if [[ -n $python ]]; then
  touch "$work/figures.jsonl"
  "$python" -c 'import json, sys; print(json.dumps([json.loads(l) for l in open(sys.argv[1])], indent=1))' "$work/figures.jsonl" > "$results/results.json"
fi
{
  echo
  echo "$((SECONDS - begin)) seconds, $failures checks failed"
} >> "$summary"
tail -1 "$summary"
((failures == 0))
