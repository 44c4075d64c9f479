"""Curation against datatrove, against one worker and a tenth of the corpus: runs the scripts below, joins results.

    python benchmarks/curation.py [--only NAME ...] [--data FOLDER] [--documents N] [--rounds N] [--quick]

Each script can be run by itself, prints its table, and ends with one line of JSON; so does this one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    "filter_chain": "curation_filter_chain.py",
    "minhash": "curation_minhash.py",
    "redaction": "curation_redaction.py",
    "decontaminate": "curation_decontaminate.py",
    "two_workers": "curation_two_workers.py",
    "scale10x": "curation_scale10x.py",
}
"""What is measured -> the script, in the order in which they run. Each takes the options above but ``--only``."""


def run(name: str, options: list[str]) -> tuple[dict[str, Any], int]:
    """What one script found, and its exit status; its table and messages are shown as they come."""
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / SCRIPTS[name]), *options], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if line.startswith("{"):
            last = line
        else:
            print(line, end="", flush=True)
    status = process.wait()
    if not last:
        raise SystemExit(f"{name} ended with {status} and without results")
    found: dict[str, Any] = json.loads(last)
    return found, status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="what to measure")
    parser.add_argument("--data", help="folder of texts; by default what is installed here")
    parser.add_argument("--documents", type=int, help="how many documents; each script has its default")
    parser.add_argument("--rounds", type=int, help="rounds in which the sides take turns; by default 3")
    parser.add_argument("--quick", action="store_true", help="few documents, one round")
    chosen = parser.parse_args()
    options = ["--quick"] if chosen.quick else []
    for name in ("data", "documents", "rounds"):
        if (value := getattr(chosen, name)) is not None:
            options += [f"--{name}", str(value)]
    results: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    worst, machine = 0, ""
    for name in chosen.only:
        found, status = run(name, options)
        results += found["results"]
        versions |= found["versions"]
        machine = found["machine"]
        worst = max(worst, abs(status))
    print(json.dumps({"benchmark": "curation", "results": results, "machine": machine, "versions": versions}))
    return worst


if __name__ == "__main__":
    sys.exit(main())
