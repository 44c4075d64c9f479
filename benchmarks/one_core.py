"""The sides of a curation benchmark: each pass in a fresh process on one core, in turns; and what is said of them."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.memory import memory_bytes

ROOT = Path(__file__).resolve().parents[1]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def read_input(path: str) -> list[str]:
    """The documents of a pass, which this process makes on one core from here on."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    documents: list[str] = pickle.loads(Path(path).read_bytes())
    return documents


def peak_mb() -> float:
    """Most memory that this process held."""
    return memory_bytes("VmHWM") / 2**20


def take_turns(
    script: str, sides: Iterable[str], documents: Sequence[str], rounds: int, warm: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """What each side printed in each round; every second round begins with the last side.

    Args:
        script: is run with ``--side`` and ``--input``, the file that :func:`read_input` reads.
        warm: each side makes a pass over a few documents first, which does not count.
    """
    order = list(sides)
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in order}
    with tempfile.TemporaryDirectory() as folder:
        few, path = Path(folder) / "few.pickle", Path(folder) / "documents.pickle"
        few.write_bytes(pickle.dumps(list(documents[:20])))
        path.write_bytes(pickle.dumps(list(documents)))
        for side in order if warm else ():
            _measure(script, side, few)
        for number in range(rounds):
            for side in reversed(order) if number % 2 else order:
                taken[side].append(_measure(script, side, path))
                print(f"  {side}: {taken[side][-1]['seconds']:.1f} s", file=sys.stderr)
    return taken


def _measure(script: str, side: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(script).resolve()), "--side", side, "--input", str(path)]
    environment = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(
    name: str, peer: str, runs: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]], documents: Sequence[str]
) -> dict[str, Any]:
    """A result: documents a second by medians, the median ratio of the rounds, megabytes a second, peak memory."""
    megabytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in documents) / 1e6
    seconds, peer_seconds = (statistics.median(each["seconds"] for each in side) for side in (runs, peers))
    return {
        "name": name,
        "ours": len(documents) / seconds,
        "peer": peer,
        "peer_value": len(documents) / peer_seconds,
        "unit": "documents/s",
        "ratio": statistics.median(b["seconds"] / a["seconds"] for a, b in zip(runs, peers, strict=True)),
        "documents": len(documents),
        "mb_per_s": megabytes / seconds,
        "peer_mb_per_s": megabytes / peer_seconds,
        "peak_mb": max(each["peak_mb"] for each in runs),
        "peer_peak_mb": max(each["peak_mb"] for each in peers),
    }


def read_options(
    about: str | None, data: str, documents: int, quick: int, sides: Mapping[str, Callable[[str], None]]
) -> argparse.Namespace | None:
    """The command's options; None where it was one side's pass, which is made.

    Args:
        data: what ``--data`` names.
        documents: how many there are by default; ``quick`` with ``--quick``, which takes one round.
        sides: a pass of each, given the input's path.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=data)
    parser.add_argument("--documents", type=int, default=documents)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help=f"{quick:,} documents, one round")
    parser.add_argument("--side", choices=sides, help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sides[options.side](options.input)
        return None
    if options.quick:
        options.documents, options.rounds = quick, 1
    return options


def print_line(results: Sequence[dict[str, Any]], packages: Sequence[str]) -> None:
    """The line of JSON at the end."""
    versions = {name: version(name) for name in packages} | {"python": platform.python_version()}
    machine = f"{platform.machine()}, one core"
    print(json.dumps({"benchmark": "curation", "results": results, "machine": machine, "versions": versions}))
