#!/usr/bin/env python3
"""Removes every barrier, fence and wait of the CUDA sources, one at a time, and demands that a test fails.

    tests/simt/mutate_barriers.py [BUILD_DIR] [--only TEXT]

A mutant of kernels/<stem>_cuda.cu is compiled in place of that one file and run against the tests of tests/kernels/<stem>*,
on the emulated device: plain under four schedules, then with ThreadSanitizer. A mutant of a header is compiled into all
sources that include it and run against their tests; what the conformance tests include is theirs. Sources under
kernels/cuda are run against all kernel tests. The sources stay as they are. Mutants that change nothing are listed, with the reason, in
tests/simt/equivalent_mutants.txt. Exit status 1: a mutant survived, or a listed one was caught after all.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
STATEMENT = re.compile(r"\b(?:__syncthreads|__syncwarp|__threadfence(?:_system)?|wait_async<\d+>)\s*\([^;]*?\)\s*;")
SCHEDULES = ["forward", "reverse", "random:1", "random:2"]
TIMEOUT = 300


def statements(path):
    """Offsets of the statements that can be removed, comments left out."""
    text = path.read_text()
    code = re.sub(r"//[^\n]*", lambda m: " " * len(m.group()), text)
    return text, [m for m in STATEMENT.finditer(code)]


CONFORMANCE = ROOT / "tests/simt/conformance.cu"


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


def tests_of(sources):
    """The test files of these sources: those of their stems, or all."""
    stems = [source.name.removesuffix("_cuda.cu") if source.parent.name == "kernels" else "" for source in sources]
    return sorted({test for stem in stems for test in (ROOT / "tests/kernels").glob(f"{stem}*_test.cpp")})


def test_filter(tests):
    suites = set()
    for test in tests:
        suites |= set(re.findall(r"^(?:TYPED_TEST|TEST_P)\((\w+),", test.read_text(), re.M))
    return ":".join(f"*{suite}*emulated*" for suite in sorted(suites))


class Build:
    def __init__(self, folder):
        self.folder = folder.resolve()
        self.commands = json.loads((self.folder / "compile_commands.json").read_text())

    def compile(self, source, target, mutant, overlay, output):
        """Compiles the repository's `source` as `target` does, from the file `mutant`, headers of `overlay` first."""
        for entry in self.commands:
            if entry["file"] == str(source) and f"/{target}.dir/" in entry["command"] + entry.get("output", ""):
                words = shlex.split(entry["command"])
                words[words.index("-o") + 1] = str(output)
                words[words.index("-c") + 1] = str(mutant)
                first = next(i for i, w in enumerate(words) if w.startswith(("-I", "-D", "-O", "-W", "-f")))
                words[first:first] = [f"-I{overlay}"]
                done = subprocess.run(words, cwd=entry["directory"], capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"the mutant does not compile:\n{done.stderr}")
                return
        sys.exit(f"{source} is not compiled for {target}: build {self.folder} first")

    def link(self, target, dropped, objects, output):
        """Links as `target` is linked, less the objects that `dropped` names, `objects` first: they hide the members of the
        libraries."""
        listing = subprocess.run(["ninja", "-C", str(self.folder), "-t", "commands", target], capture_output=True, text=True,
                                 check=True).stdout.splitlines()
        command = next(line for line in reversed(listing) if f"-o bin/{target} " in line)
        words = [w for w in shlex.split(command) if not (w.endswith(".o") and dropped(pathlib.Path(w).name.removesuffix(".o")))]
        words[words.index("-o") + 1] = str(output)
        at = next(i for i, w in enumerate(words) if w.endswith(".o"))
        words[at:at] = [str(o) for o in objects]
        text = " ".join(w if w in ("&&", ":") else shlex.quote(w) for w in words)
        subprocess.run(text, shell=True, cwd=self.folder, check=True, capture_output=True)


def fails(binary, gtest_filter, schedule):
    environment = dict(os.environ, SIMT_SCHEDULE=schedule)
    try:
        done = subprocess.run([str(binary), f"--gtest_filter={gtest_filter}", "--gtest_fail_fast", "--gtest_brief=1"],
                              env=environment, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return True
    if b"0 tests ran" in done.stdout or b"Running 0 tests" in done.stdout:
        sys.exit(f"no test matches {gtest_filter}")
    return done.returncode != 0


def verdict(build, source, match, text, folder):
    """Which build catches the mutant: 'schedule NAME', 'tsan', or '' for none."""
    overlay = folder / "overlay"
    mutant = overlay / source.relative_to(ROOT)
    mutant.parent.mkdir(parents=True, exist_ok=True)
    mutant.write_text(text[:match.start()] + "static_cast<void>(0);" + text[match.end():])
    if source.suffix == ".cuh" and source in includes(CONFORMANCE):
        compiled, gtest_filter = [CONFORMANCE], "Conformance*"
        dropped = "conformance.cu".__eq__
        libraries = binaries = {"plain": "simt_tests_plain", "tsan": "simt_tests_tsan"}
    else:
        compiled = [source] if source.suffix == ".cu" else [s for s in device_sources() if source in includes(s)]
        tests = tests_of(compiled)
        wanted, gtest_filter = {test.name for test in tests}, test_filter(tests)
        def dropped(name):
            return name.endswith("_test.cpp") and name not in wanted
        libraries = {"plain": "cohort_kernels_emulated", "tsan": "cohort_kernels_emulated_tsan"}
        binaries = {"plain": "kernels_tests", "tsan": "kernels_tests_tsan"}
    if not compiled:
        sys.exit(f"no source includes {source}")
    for flavour in ("plain", "tsan"):
        binary = folder / flavour
        objects = [folder / f"{flavour}_{origin.stem}.o" for origin in compiled]
        for origin, built in zip(compiled, objects):
            build.compile(origin, libraries[flavour], mutant if origin == source else origin, overlay, built)
        build.link(binaries[flavour], dropped, objects, binary)
        for schedule in SCHEDULES if flavour == "plain" else ["random:1"]:
            if fails(binary, gtest_filter, schedule):
                return f"schedule {schedule}" if flavour == "plain" else "tsan"
    return ""


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
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    arguments = parser.parse_args()
    build = Build(arguments.build)
    equivalent = read_equivalent()
    bad = total = 0
    sources = device_sources() + sorted(ROOT.glob("kernels/cuda/*.cuh"))
    print(f"{'mutant':44} {'line':>5}  {'removed':34} caught by")
    for source in sources:
        text, found = statements(source)
        for number, match in enumerate(found, 1):
            name = f"{source.relative_to(ROOT)}#{number}"
            if arguments.only not in name:
                continue
            total += 1
            with tempfile.TemporaryDirectory() as folder:
                caught = verdict(build, source, match, text, pathlib.Path(folder))
            note = caught
            if not caught:
                note = f"equivalent: {equivalent[name]}" if name in equivalent else "SURVIVED"
            elif name in equivalent:
                note = f"{caught}, LISTED AS EQUIVALENT"
            bad += note == "SURVIVED" or note.endswith("EQUIVALENT")
            print(f"{name:44} {text.count(chr(10), 0, match.start()) + 1:5}  {match.group():34} {note}", flush=True)
    print(f"{total} mutants, {bad} not as they should be")
    return 1 if bad or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
