"""Both curation stages with two workers on two cores against one on one: the same documents, the same bytes out.

Each side is `corpus.workers` and `curate.workers` of a recipe, in a process and on a Ray of its own; sides take turns.
Driver and Ray have no core of their own on either side. `--cores 2` gives the one worker both cores, and driver and Ray
then work beside it.

    python benchmarks/curation_two_workers.py [--data FOLDER] [--documents N] [--rounds N] [--cores N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDES = (1, 2)


def two_workers(folder: Path, rounds: int, cores: int) -> dict[str, Any]:
    """The result named ``two_workers``."""
    from benchmarks.curation_stages import Run, run_stages

    taken: dict[int, list[Run]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in sorted(SIDES, reverse=number % 2 == 1):
            taken[side].append(run_stages(folder, side, max(side, cores)))
            print(f"  {side}: {taken[side][-1].seconds:.1f} s", file=sys.stderr)
    one, two = taken[1], taken[2]
    seconds, peer_seconds = (statistics.median(each.seconds for each in side) for side in (two, one))
    first = one[0]
    return {
        "name": "two_workers",
        "ours": first.documents / seconds,
        "peer": f"one worker on {cores} core{'s' if cores > 1 else ''}",
        "peer_value": first.documents / peer_seconds,
        "unit": "documents/s",
        "ratio": statistics.median(a.seconds / b.seconds for a, b in zip(one, two, strict=True)),
        "rounds": [round(a.seconds / b.seconds, 3) for a, b in zip(one, two, strict=True)],
        "documents": first.documents,
        "mb_per_s": first.megabytes / seconds,
        "peer_mb_per_s": first.megabytes / peer_seconds,
        "cpu_seconds": statistics.median(each.cpu_seconds for each in two),
        "peer_cpu_seconds": statistics.median(each.cpu_seconds for each in one),
        "stage_seconds": two[0].stage_seconds,
        "peer_stage_seconds": first.stage_seconds,
        "peak_mb": max(each.worker_peak_mb for each in two),
        "peer_peak_mb": max(each.worker_peak_mb for each in one),
        "agreement": float(len({each.digest for each in [*one, *two]}) == 1),
    }


def main() -> int:
    from benchmarks.curation_filter_chain import make_documents
    from benchmarks.curation_stages import vary, versions, write_sources

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of .txt and .jsonl files, read before Python's documentation")
    parser.add_argument("--documents", type=int, default=24_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, choices=SIDES, default=1, help="of the one worker")
    parser.add_argument("--quick", action="store_true", help="1,000 documents, one round")
    options = parser.parse_args()
    count = 1_000 if options.quick else options.documents
    texts = make_documents(options.data, min(count, 12_000))
    documents = list(vary(texts, -(-count // len(texts))))[:count]
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        write_sources(documents, Path(folder) / "documents", 40)
        rounds = 1 if options.quick else options.rounds
        result = two_workers(Path(folder) / "documents", rounds, options.cores)
    print(f"{'':<14}{'documents/s':>12}{'MB/s':>8}{'CPU s':>8}{'peak MB':>9}")
    print(f"{'one worker':<14}{result['peer_value']:>12,.0f}{result['peer_mb_per_s']:>8.2f}", end="")
    print(f"{result['peer_cpu_seconds']:>8.1f}{result['peer_peak_mb']:>9,.0f}")
    print(f"{'two workers':<14}{result['ours']:>12,.0f}{result['mb_per_s']:>8.2f}", end="")
    print(f"{result['cpu_seconds']:>8.1f}{result['peak_mb']:>9,.0f}   ratio {result['ratio']:.2f}")
    machine = f"{platform.machine()}, two cores"
    print(json.dumps({"benchmark": "curation", "results": [result], "machine": machine, "versions": versions()}))
    return 0 if result["agreement"] == 1.0 else 1


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main())
