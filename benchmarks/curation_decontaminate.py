"""Decontamination against datatrove's n-gram filter: one core, cold, the same documents and the same questions.

Each side runs in a fresh process on the same core, the sides taking turns; what is timed is one pass over all documents
with an index made before. Decisions are compared document by document. They differ where the two count words
differently: datatrove takes punctuation out and splits as spaCy does, we split at everything but letters and digits.
It needs datatrove (extra: dev).

    python benchmarks/curation_decontaminate.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
"""

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
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
sys.path[0] = ROOT  # this folder would hide the package `serving`

from benchmarks.curation_redaction import _peak_mb, read_documents  # noqa: E402

WORDS_IN_A_QUESTION = 20
NGRAM = 13
Decide = Callable[[str], bool]


def make_questions(documents: Sequence[str]) -> list[dict[str, Any]]:
    """Every tenth document's words in the middle; of every second question each fifth word is changed."""
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(documents[::10]):
        words = text.split()
        middle = len(words) // 2
        chosen = words[middle : middle + WORDS_IN_A_QUESTION]
        if number % 2:
            chosen = [f"q{number}" if place % 5 == 0 else word for place, word in enumerate(chosen)]
        rows.append({"suite": "s", "task": "s", "question": " ".join(chosen), "choices": ["of course"], "right": [0]})
    return rows


def _ours(questions: Sequence[dict[str, Any]], folder: Path) -> Decide:
    from pipelines.curate.decontaminate.config import DecontaminateConfig
    from pipelines.curate.decontaminate.index import build_index
    from pipelines.curate.decontaminate.verdict import ContaminationTally

    config = DecontaminateConfig(ngram=NGRAM, min_words=NGRAM, max_questions=None)
    index, tally = build_index(questions, config), ContaminationTally()
    return lambda text: tally.add(index.find(text), index, config) is not None


def _peer(questions: Sequence[dict[str, Any]], folder: Path) -> Decide:
    import numpy as np
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer

    config = NGramsDecontConfig(n_grams=NGRAM, find_query_ngrams=True)
    # Making its index as a pipeline needs a package that fetches benchmarks; its hashes do not.
    hashes = NGramsDecontIndexer.compute_hashes
    maker = object.__new__(NGramsDecontIndexer)
    peer = NGramsDecontFilter(str(folder), config)
    # Its own way to call XXH64 passes text, which xxhash 4 refuses.
    maker.hash_func = peer.hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
    maker.config, maker.tokenizer = config, peer.tokenizer
    index = {each for row in questions for each in hashes(maker, row["choices"][0], row["question"])}
    np.array(sorted(index), config.hash_config.np_descr).tofile(folder / "s.index.hashes")
    peer.load_index_hashes()
    return lambda text: peer.filter(Document(text=text, id="")) is not True


SIDES = {"ours": _ours, "peer": _peer}


def measure_here(side: str, path: str) -> None:
    """One pass in this process; prints seconds, peak memory and the decisions."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    documents: list[str] = pickle.loads(Path(path).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        decide = SIDES[side](make_questions(documents), Path(folder))
        begin = time.perf_counter()
        decisions = [decide(text) for text in documents]
        seconds = time.perf_counter() - begin
    print(
        json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "decisions": "".join("01"[each] for each in decisions)})
    )


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


def decontaminate(documents: Sequence[str], rounds: int = 3) -> list[dict[str, Any]]:
    """The result named ``decontaminate``."""
    megabytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in documents) / 1e6
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.pickle"
        path.write_bytes(pickle.dumps(list(documents)))
        for _ in range(rounds):
            for side, runs in taken.items():
                runs.append(_measure(side, str(path)))
    ours, peer = taken["ours"], taken["peer"]
    seconds, peer_seconds = (statistics.median(each["seconds"] for each in runs) for runs in (ours, peer))
    pairs = list(zip(ours[0]["decisions"], peer[0]["decisions"], strict=True))
    return [
        {
            "name": "decontaminate",
            "ours": len(documents) / seconds,
            "peer": "datatrove NGramsDecontFilter",
            "peer_value": len(documents) / peer_seconds,
            "unit": "documents/s",
            "ratio": statistics.median(b["seconds"] / a["seconds"] for a, b in zip(ours, peer, strict=True)),
            "documents": len(documents),
            "mb_per_s": megabytes / seconds,
            "peer_mb_per_s": megabytes / peer_seconds,
            "peak_mb": max(each["peak_mb"] for each in ours),
            "peer_peak_mb": max(each["peak_mb"] for each in peer),
            "found": sum(one == "1" for one, _ in pairs),
            "peer_found": sum(other == "1" for _, other in pairs),
            "agreement": sum(one == other for one, other in pairs) / len(pairs),
        }
    ]


def show(results: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    for each in results:
        print(
            f"{each['name']}: {each['ours']:,.0f} documents/s, {each['mb_per_s']:,.1f} MB/s, "
            f"{each['peak_mb']:,.0f} MB, {each['found']:,} found; "
            f"{each['peer']}: {each['peer_value']:,.0f} documents/s, {each['peer_mb_per_s']:,.2f} MB/s, "
            f"{each['peer_peak_mb']:,.0f} MB, {each['peer_found']:,} found; "
            f"ratio {each['ratio']:.1f}, agreement {each['agreement']:.4%}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of texts; by default only what is installed here")
    parser.add_argument("--documents", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="500 documents, one round")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure_here(options.side, options.input)
        return 0
    documents = read_documents(options.data, 500 if options.quick else options.documents)
    results = decontaminate(documents, 1 if options.quick else options.rounds)
    show(results)
    versions = {name: version(name) for name in ("datatrove",)} | {"python": platform.python_version()}
    machine = f"{platform.machine()}, one core"
    print(json.dumps({"benchmark": "curation", "results": results, "machine": machine, "versions": versions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
