#!/usr/bin/env python3
"""Registers, shared memory and spills of every kernel, from ptxas; no GPU needed.

    tests/simt/ptxas_check.py [--nvcc NVCC] [--jobs N] [FILE...]      default: kernels/*_cuda.cu and kernels/cuda/*.cu

Exit status 1: a kernel spills registers to memory on one of the architectures.
"""
import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
ARCHITECTURES = (80, 90)


def compile_verbosely(nvcc, source):
    generate = [word for a in ARCHITECTURES for word in ("-gencode", f"arch=compute_{a},code=sm_{a}")]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([nvcc, "-std=c++20", "--expt-relaxed-constexpr", "--extended-lambda", "-I", str(ROOT), *generate,
                               "-Xptxas=-v", "-c", str(source), "-o", f"{folder}/out.o"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{source}:\n{done.stderr}")
    return done.stderr


def demangle(names):
    tool = shutil.which("c++filt")
    if not tool:
        return names
    text = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return [name.replace("(anonymous namespace)::", "").replace("cohort::kernels::", "").split("(")[0].removeprefix("void ")
            for name in text.splitlines()]


def rows_of(text):
    """(mangled name, architecture, registers, shared bytes, stack bytes, spilled bytes) of each kernel."""
    rows, name = [], None
    for line in text.splitlines():
        if m := re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)'", line):
            name, arch, stack, spilled = m[1], int(m[2]), 0, 0
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, spilled = int(m[1]), int(m[2]) + int(m[3])
        elif name and (m := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            rows.append((name, arch, int(m[1]), int(shared[1]) if shared else 0, stack, spilled))
            name = None
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    files = arguments.files or sorted(ROOT.glob("kernels/*_cuda.cu")) + sorted(ROOT.glob("kernels/cuda/*.cu"))
    kernels = spilling = 0
    print(f"{'registers':>9} {'shared':>7} {'stack':>6} {'spilled':>7}  arch   kernel")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for file, text in zip(files, pool.map(lambda f: compile_verbosely(arguments.nvcc, f), files)):
            rows = rows_of(text)
            print(file.name)
            for name, (_, arch, registers, shared, stack, spilled) in zip(demangle([r[0] for r in rows]), rows):
                if name.startswith(("cub::", "thrust::")):  # the toolkit's own
                    continue
                kernels += 1
                spilling += spilled > 0
                mark = "   SPILLS" if spilled else ""
                print(f"{registers:9} {shared:7} {stack:6} {spilled:7}  sm_{arch}  {name}{mark}")
            sys.stdout.flush()
    print(f"{kernels} kernels, {spilling} spill")
    return 1 if spilling or kernels == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
