"""Both curation stages over a corpus and over one ten times larger: time and peak memory of each worker.

The larger corpus is made of the smaller one's documents and nine copies of each with other words (see
curation_stages.vary), so that both are alike and nothing is a duplicate that was none before. The parts are of the same
size in both, as they are of any corpus that is larger than a few of them. Two workers, two cores.

    python benchmarks/curation_scale10x.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
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
TIMES = 10
WORKERS = 2
PART_BYTES = 512 << 10
"""In both corpora; by default a small one is cut in as many parts as it has to be for many workers."""


def scale10x(small: Path, large: Path, rounds: int) -> dict[str, Any]:
    """The result named ``scale10x``: ``ratio`` is the time per document of the small corpus over the large one's."""
    from benchmarks.curation_stages import Run, run_stages

    pairs: list[tuple[Run, Run]] = []
    for _ in range(rounds):
        few, many = (run_stages(each, WORKERS, part_bytes=PART_BYTES) for each in (small, large))
        pairs.append((few, many))
        for each in pairs[-1]:
            print(f"  {each.documents:,} documents: {each.seconds:.1f} s", file=sys.stderr)
    few, many = pairs[0]
    times = many.documents / few.documents
    return {
        "name": "scale10x",
        "ours": statistics.median(b.documents / b.seconds for _, b in pairs),
        "peer": "a corpus of a tenth",
        "peer_value": statistics.median(a.documents / a.seconds for a, _ in pairs),
        "unit": "documents/s",
        "ratio": statistics.median(times * a.seconds / b.seconds for a, b in pairs),
        "times_as_long": statistics.median(b.seconds / a.seconds for a, b in pairs),
        "times_the_cpu": statistics.median(b.cpu_seconds / a.cpu_seconds for a, b in pairs),
        "documents": many.documents,
        "peer_documents": few.documents,
        "mb_per_s": many.megabytes / statistics.median(b.seconds for _, b in pairs),
        "peak_mb": max(b.worker_peak_mb for _, b in pairs),
        "peer_peak_mb": max(a.worker_peak_mb for a, _ in pairs),
        "driver_peak_mb": max(b.driver_peak_mb for _, b in pairs),
        "peer_driver_peak_mb": max(a.driver_peak_mb for a, _ in pairs),
        "kept": many.kept,
        "peer_kept": few.kept,
        "stage_seconds": many.stage_seconds,
        "peer_stage_seconds": few.stage_seconds,
    }


def main() -> int:
    from benchmarks.curation_filter_chain import make_documents
    from benchmarks.curation_stages import vary, versions, write_sources

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of .txt and .jsonl files, read before Python's documentation")
    parser.add_argument("--documents", type=int, default=16_000, help="of the smaller corpus")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="400 and 4,000 documents, one round")
    options = parser.parse_args()
    texts = make_documents(options.data, 400 if options.quick else options.documents)
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        write_sources(texts, small, 40)
        write_sources(list(vary(texts, TIMES)), large, 40 * TIMES)
        result = scale10x(small, large, 1 if options.quick else options.rounds)
    print(f"{'':<20}{'documents':>10}{'documents/s':>13}{'worker MB':>11}{'driver MB':>11}")
    print(f"{'a tenth':<20}{result['peer_documents']:>10,}{result['peer_value']:>13,.0f}", end="")
    print(f"{result['peer_peak_mb']:>11,.0f}{result['peer_driver_peak_mb']:>11,.0f}")
    print(f"{'all':<20}{result['documents']:>10,}{result['ours']:>13,.0f}", end="")
    print(
        f"{result['peak_mb']:>11,.0f}{result['driver_peak_mb']:>11,.0f}   {result['times_as_long']:.2f} times as long"
    )
    machine = f"{platform.machine()}, two cores"
    print(json.dumps({"benchmark": "curation", "results": [result], "machine": machine, "versions": versions()}))
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main())
