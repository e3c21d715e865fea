#!/usr/bin/env python3
"""Leaves out every barrier, fence and wait of the CUDA sources, one at a time, and demands that a test fails.

    tests/simt/mutate_barriers.py [BUILD_DIR] [--only TEXT] [--jobs N]

The emulator leaves a statement out at run time (SIMT_LEAVE_OUT=FILE:LINE), so the test binaries of the build serve for all
of them. A statement of kernels/<stem>_cuda.cu is judged by the tests of tests/kernels/<stem>*, one of a header by those of
the sources that include it, one under kernels/cuda by all kernel tests; what the conformance tests include, by these too.
Plain kernels run under four schedules, then kernels with ThreadSanitizer. A test that fails with the statement in place judges
nothing, one that does not end within its time neither, and a statement that no test reaches is reported as such. Statements
whose loss nothing can see are listed, with the reason, in tests/simt/equivalent_mutants.txt. Exit status 1: a statement
can go unnoticed, or a listed one was missed after all.
"""
import argparse
import concurrent.futures
import functools
import os
import pathlib
import re
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATEMENT = re.compile(r"\b(?:__syncthreads|__syncwarp|__threadfence(?:_system)?|wait_async<\d+>|wait_for_change)\s*\([^;{]*?\)\s*;")
SCHEDULES = ["forward", "reverse", "random:1", "random:2"]
CONFORMANCE = ROOT / "tests/simt/conformance.cu"
TIMEOUT = 1800


def statements(path):
    """(line, text) of what can be left out; comments are not code."""
    code = re.sub(r"//[^\n]*", "", path.read_text())
    found = [(code.count("\n", 0, m.start()) + 1, m.group()) for m in STATEMENT.finditer(code)]
    lines = [line for line, _ in found]
    if len(set(lines)) != len(lines):
        sys.exit(f"{path}: two barriers on one line cannot be told apart")
    return found


def includes(path, seen=None):
    """The repository's files that `path` includes, directly or not."""
    seen = set() if seen is None else seen
    for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
        header = ROOT / name
        if header.exists() and header not in seen:
            seen.add(header)
            includes(header, seen)
    return seen


def device_sources():
    return sorted(ROOT.glob("kernels/*_cuda.cu")) + sorted(ROOT.glob("kernels/cuda/*.cu"))


def tests_of(source):
    folder = ROOT / "tests/kernels"
    if source.parent.name == "kernels":
        return set(folder.glob(f"{source.name.removesuffix('_cuda.cu')}*_test.cpp"))
    named = {test for word in source.stem.split("_") for test in folder.glob(f"{word}*_test.cpp")}
    return named or set(folder.glob("*_test.cpp"))


def test_filter(sources):
    """The cases on the emulated device of the tests of these sources."""
    tests = set().union(*map(tests_of, sources))
    suites = {suite for test in tests for suite in re.findall(r"^(?:TYPED_TEST|TEST_P)\((\w+),", test.read_text(), re.M)}
    return ":".join(f"*{suite}*emulated*" for suite in sorted(suites))


def judges(source):
    """(binary, filter, schedule) of the runs that may notice a statement of this file, the quickest first."""
    sources = [source] if source.suffix == ".cu" else [s for s in device_sources() if source in includes(s)]
    runs = []
    if source in includes(CONFORMANCE):
        runs += [("simt_tests_plain", "Conformance*", schedule) for schedule in SCHEDULES]
        runs += [("simt_tests_tsan", "Conformance*", "random:1")]
    if sources:
        cases = test_filter(sources)
        runs += [("kernels_tests", cases, schedule) for schedule in SCHEDULES]
        runs += [("kernels_tests_tsan", cases, "random:1")]
    if not runs:
        sys.exit(f"{source}: no test includes it")
    return runs


class Tests:
    def __init__(self, folder):
        self.folder = folder.resolve() / "bin"
        self.lock = threading.Lock()

    def run(self, judge, left_out=""):
        """'passed', 'failed' or 'timeout', and whether the statement was reached."""
        binary, cases, schedule = judge
        environment = dict(os.environ, SIMT_SCHEDULE=schedule)
        if left_out:
            environment["SIMT_LEAVE_OUT"] = left_out
        command = [str(self.folder / binary), f"--gtest_filter={cases}", "--gtest_fail_fast", "--gtest_brief=1"]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return "timeout", True
        if b"0 tests ran" in done.stdout or b"Running 0 tests" in done.stdout:
            sys.exit(f"no test matches {cases}")
        return "failed" if done.returncode else "passed", b"simt: left out" in done.stderr

    @functools.cache
    def sound(self, judge):
        with self.lock:
            return self.run(judge)[0] == "passed"

    def verdict(self, source, line):
        """Which run notices, 'SURVIVED', 'NEVER REACHED' or what else went wrong."""
        anywhere = False
        for judge in judges(source):
            outcome, reached = self.run(judge, f"{source.relative_to(ROOT)}:{line}")
            anywhere = anywhere or reached
            if outcome == "passed":
                continue
            name = f"{judge[0]} {judge[2]}"
            if outcome == "timeout":
                return f"NOT DECIDED: {name} takes longer than {TIMEOUT} s", False
            return (name, True) if self.sound(judge) else (f"NOT DECIDED: {name} fails with everything in place", False)
        return ("SURVIVED" if anywhere else "NEVER REACHED"), False


def read_equivalent():
    known = {}
    for line in (ROOT / "tests/simt/equivalent_mutants.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(" ")
            known[name] = reason.strip()
    return known


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--only", default="", help="statements whose name contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    tests = Tests(arguments.build)
    equivalent = read_equivalent()
    mutants = []
    for source in device_sources() + sorted(ROOT.glob("kernels/cuda/*.cuh")):
        for number, (line, text) in enumerate(statements(source), 1):
            name = f"{source.relative_to(ROOT)}#{number}"
            if arguments.only in name:
                mutants.append((name, source, line, text))
    bad = 0
    print(f"{'statement':44} {'line':>5}  {'left out':20} noticed by")
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for (name, _, line, text), (note, noticed) in zip(mutants, pool.map(lambda m: tests.verdict(m[1], m[2]), mutants)):
            if noticed and name in equivalent:
                note, noticed = f"{note}, LISTED AS EQUIVALENT", False
            elif note == "SURVIVED" and name in equivalent:
                note, noticed = f"equivalent: {equivalent[name]}", True
            bad += not noticed
            print(f"{name:44} {line:5}  {text:20} {note}", flush=True)
    stale = sorted(name for name in equivalent if arguments.only in name and name not in {m[0] for m in mutants})
    for name in stale:
        print(f"{name}: listed as equivalent, and not there")
    print(f"{len(mutants)} statements, {bad + len(stale)} not as they should be")
    return 1 if bad or stale or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
