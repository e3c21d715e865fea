#!/usr/bin/env python3
"""What failed, once more at the end of a long log: name and output of every test that a JUnit file of ctest calls failed.

    tests/failures.py RESULTS.xml
"""
import sys
import xml.etree.ElementTree

MOST_CHARACTERS = 4000  # of each test: its end


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    failed = [case for case in xml.etree.ElementTree.parse(sys.argv[1]).iter("testcase") if case.get("status") == "fail"]
    for case in failed:
        print(f"== failed: {case.get('name')} ({float(case.get('time', 0)):.1f} s)")
        print((case.findtext("system-out") or "").strip()[-MOST_CHARACTERS:])
    print(f"== {len(failed)} tests failed" + "".join(f"\n   {case.get('name')}" for case in failed))


if __name__ == "__main__":
    main()
