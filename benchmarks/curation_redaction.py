"""Redaction of e-mail and IP addresses against datatrove's PIIFormatter: one core, cold, identical decisions.

Each side runs in a fresh process on the same core, the sides taking turns; what is timed is making the redactor and one
pass over all documents, without imports. Decisions are compared document by document. It needs datatrove (extra: dev).

    python benchmarks/curation_redaction.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
DOCUMENT_CHARACTERS = 3000
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".json", ".html")
PLANTED = (
    "Write to {user}@example.org or call from {first}.58.{second}.7:80, not 10.0.0.{second}.",
    "Version 1.2.{first}.4.5 by <{user}.{user}@mail.example.co.uk>; see {user}@localhost and x@{second}.2.3.",
)
"""Every tenth document gets one of these, so that there is something to decide about in plain prose as well."""


def read_documents(folder: Path | None, most: int) -> list[str]:
    """Texts of about DOCUMENT_CHARACTERS, cut at line ends from a folder and then from what is installed here."""
    documents: list[str] = []
    for root in [*([folder] if folder else []), *_installed()]:
        for path in sorted(root.rglob("*")):
            if len(documents) >= most:
                return [_plant(number, text) for number, text in enumerate(documents[:most])]
            if path.is_file() and (path.suffix in TEXT_SUFFIXES or path.name in ("METADATA", "LICENSE")):
                documents.extend(_cut(path.read_text(encoding="utf-8", errors="replace")))
    return [_plant(number, text) for number, text in enumerate(documents)]


def _installed() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths["stdlib"]), Path(paths["purelib"])]


def _cut(text: str) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= DOCUMENT_CHARACTERS:
            yield "".join(lines)
            lines, size = [], 0
    if size > 200:
        yield "".join(lines)


def _plant(number: int, text: str) -> str:
    if number % 10:
        return text
    line = PLANTED[number // 10 % 2].format(user=f"user{number}", first=20 + number % 60, second=number % 256)
    half = len(text) // 2
    return f"{text[:half]}\n{line}\n{text[half:]}"


def _ours() -> tuple[Callable[[], Callable[[str], str]], str]:
    from pipelines.curate.redact import RedactConfig, Redactor

    def make() -> Callable[[str], str]:
        redactor = Redactor(RedactConfig(types=("email", "ip"), addresses="reference"))
        return lambda text: redactor(text)[0]

    return make, "ours"


def _peer() -> tuple[Callable[[], Callable[[str], str]], str]:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    def make() -> Callable[[str], str]:
        format_: Callable[[str], str] = PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>").format
        return format_

    return make, "peer"


def _strict() -> tuple[Callable[[], Callable[[str], str]], str]:
    from pipelines.curate.redact import RedactConfig, Redactor

    def make() -> Callable[[str], str]:
        redactor = Redactor(RedactConfig(types=("email", "ip")))
        return lambda text: redactor(text)[0]

    return make, "strict"


SIDES = {"ours": _ours, "peer": _peer, "strict": _strict}


def measure_here(side: str, path: str) -> None:
    """One pass in this process; prints seconds, peak memory and where the hashes of the results are."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    documents: list[str] = pickle.loads(Path(path).read_bytes())
    make, _ = SIDES[side]()
    before = _peak_mb()
    begin, cpu = time.perf_counter(), time.process_time()
    redact = make()
    results = [redact(text) for text in documents]
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    peak = _peak_mb()
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in results]
    changed = sum(a != b for a, b in zip(results, documents, strict=True))
    found = {"seconds": seconds, "cpu": cpu_seconds, "peak_mb": peak, "grown_mb": peak - before}
    print(json.dumps({**found, "changed": changed, "hashes": hashes}))


def _peak_mb() -> float:
    """Most memory that this process held; getrusage would give the parent's, if that is larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s*([0-9]+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _measure(side: str, path: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--side", side, "--input", path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def redaction(documents: Sequence[str], rounds: int = 3) -> list[dict[str, Any]]:
    """Results named ``redaction`` (identical decisions) and ``redaction_strict`` (the default rules)."""
    megabytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in documents) / 1e6
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.pickle"
        path.write_bytes(pickle.dumps(list(documents)))
        for _ in range(rounds):
            for side, runs in taken.items():
                runs.append(_measure(side, str(path)))
    peers = taken["peer"]
    results = []
    for name, side in (("redaction", "ours"), ("redaction_strict", "strict")):
        runs = taken[side]
        same = sum(a == b for a, b in zip(runs[0]["hashes"], peers[0]["hashes"], strict=True))
        seconds, peer_seconds = (statistics.median(each["seconds"] for each in side_) for side_ in (runs, peers))
        results.append(
            {
                "name": name,
                "ours": len(documents) / seconds,
                "peer": "datatrove PIIFormatter",
                "peer_value": len(documents) / peer_seconds,
                "unit": "documents/s",
                "ratio": statistics.median(b["seconds"] / a["seconds"] for a, b in zip(runs, peers, strict=True)),
                "documents": len(documents),
                "mb_per_s": megabytes / seconds,
                "peer_mb_per_s": megabytes / peer_seconds,
                "peak_mb": max(each["peak_mb"] for each in runs),
                "peer_peak_mb": max(each["peak_mb"] for each in peers),
                "changed": runs[0]["changed"],
                "agreement": same / len(documents),
            }
        )
    return results


def show(results: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    print(f"{'':<18}{'documents/s':>14}{'MB/s':>9}{'peak MB':>9}{'peer':>12}{'MB/s':>9}{'ratio':>8}{'agreement':>12}")
    for each in results:
        print(
            f"{each['name']:<18}{each['ours']:>14,.0f}{each['mb_per_s']:>9,.0f}{each['peak_mb']:>9,.0f}"
            f"{each['peer_value']:>12,.0f}{each['peer_mb_per_s']:>9,.1f}{each['ratio']:>8.1f}{each['agreement']:>12.4%}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of texts; by default only what is installed here")
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1,000 documents, one round")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure_here(options.side, options.input)
        return 0
    documents = read_documents(options.data, 1000 if options.quick else options.documents)
    results = redaction(documents, 1 if options.quick else options.rounds)
    show(results)
    versions = {name: version(name) for name in ("datatrove",)} | {"python": platform.python_version()}
    machine = f"{platform.machine()}, one core"
    print(json.dumps({"benchmark": "curation", "results": results, "machine": machine, "versions": versions}))
    return 0 if results[0]["agreement"] == 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
