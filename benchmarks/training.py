"""Training against its peers: runs the scripts named below one after the other and joins their results.

    python benchmarks/training.py [--only NAME ...] [--quick]

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
    "torchrun": ["training_torchrun.py"],
    "gpt2_eager": ["training_steps.py", "--only", "gpt2_eager"],
    "gpt2_compiled": ["training_steps.py", "--only", "gpt2_compiled"],
    "encode": ["training_encode.py"],
    "tinyshakespeare": ["training_quality.py"],
}
"""What is measured -> the script and its arguments, in the order in which they run."""


def run(name: str, options: list[str]) -> tuple[dict[str, Any], int]:
    """What one script found, and its exit status; its table and messages are shown as they come."""
    script, *arguments = SCRIPTS[name]
    command = [sys.executable, str(FOLDER / script), *arguments, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if line.startswith("{"):
            last = line
        else:
            print(line, end="", flush=True)
    status = process.wait()
    found: dict[str, Any] = json.loads(last) if last else {}
    return found, status


def main() -> None:
    """Run what is asked for; exit 1 where a script failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SCRIPTS, nargs="+", default=list(SCRIPTS))
    parser.add_argument("--quick", action="store_true", help="passed on: shows that each runs")
    arguments = parser.parse_args()
    results: list[Any] = []
    failed: list[str] = []
    machine, versions = "", dict[str, str]()
    for name in arguments.only:
        found, status = run(name, ["--quick"] if arguments.quick else [])
        if status or not found:
            failed.append(name)
            continue
        results += found["results"]
        machine, versions = found["machine"], versions | found["versions"]
    print(json.dumps({"benchmark": "training", "results": results, "machine": machine, "versions": versions}))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
