#!/usr/bin/env python3
"""Writes the program's own texts into docs/cli.md: the table of settings and the help of every command,
the presets and the published tables.

    docs/update_cli.py BINARY            rewrites the file
    docs/update_cli.py BINARY --check    exit status 1 where the file differs

What stands outside of those sections is left as it is.
"""
import json
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).resolve().parent / "cli.md"


def run(binary, *words):
    return subprocess.run([binary, *words], check=True, capture_output=True, text=True).stdout


def settings_table(binary):
    lines = ["| key | default | values | |", "|---|---|---|---|"]
    for key in json.loads(run(binary, "list", "options", "--json")):
        default = json.dumps(key["default"])
        cells = [f"`{key['key']}`", f"`{default}`", key["domain"], key["help"]]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def commands(binary):
    listed = run(binary, "--help").split("Commands:\n")[1].split("\n\n")[0]
    return [line.split()[0] for line in listed.splitlines()]


def section(text, title, body):
    """The page with the section `## title` holding this body; a new one comes before `## Presets`."""
    block = f"## {title}\n\n{body}\n\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)
    if found:
        return text[:found.start()] + block + text[found.end():]
    at = text.index("## Presets\n")
    return text[:at] + block + text[at:]


def main():
    binary, check = sys.argv[1], "--check" in sys.argv[2:]
    before = PAGE.read_text()
    text = section(before, "All settings", settings_table(binary))
    for name, words in [("cohort", ["--help"])] + [(f"cohort {c}", [c, "--help"]) for c in commands(binary)]:
        text = section(text, name, f"```\n{run(binary, *words).strip()}\n```")
    for title, words in [("Fidelities", ["list", "fidelities"]), ("Presets", ["list", "presets"]), ("Tables", ["list", "tables"])]:
        text = section(text, title, f"```\n{run(binary, *words).strip()}\n```")
    text = text.rstrip() + "\n"
    if check and text != before:
        sys.exit(f"{PAGE} is not what the program says: docs/update_cli.py {binary}")
    if not check:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
