"""Decontamination against datatrove's n-gram filter: one core, cold, the same documents and the same questions.

Each side runs in a fresh process on the same core, the sides taking turns; what is timed is one pass over all documents
with an index made before. Decisions are compared document by document. They differ where the two count words
differently: datatrove takes punctuation out and splits as spaCy does, we split at everything but letters and digits.
It needs datatrove (extra: dev).

    python benchmarks/curation_decontaminate.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
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
    from benchmarks.one_core import peak_mb, read_input

    documents = read_input(path)
    with tempfile.TemporaryDirectory() as folder:
        decide = SIDES[side](make_questions(documents), Path(folder))
        begin = time.perf_counter()
        decisions = [decide(text) for text in documents]
        seconds = time.perf_counter() - begin
    written = "".join("01"[each] for each in decisions)
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "decisions": written}))


def decontaminate(documents: Sequence[str], rounds: int = 3) -> list[dict[str, Any]]:
    """The result named ``decontaminate``."""
    from benchmarks.one_core import compare, take_turns

    taken = take_turns(__file__, SIDES, documents, rounds)
    ours, peer = taken["ours"], taken["peer"]
    pairs = list(zip(ours[0]["decisions"], peer[0]["decisions"], strict=True))
    counted = {
        "found": sum(one == "1" for one, _ in pairs),
        "peer_found": sum(other == "1" for _, other in pairs),
        "agreement": sum(one == other for one, other in pairs) / len(pairs),
    }
    return [compare("decontaminate", "datatrove NGramsDecontFilter", ours, peer, documents) | counted]


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
    from benchmarks.curation_redaction import read_documents
    from benchmarks.one_core import print_line, read_options

    passes = {side: partial(measure_here, side) for side in SIDES}
    options = read_options(__doc__, "folder of texts; by default only what is installed here", 12_000, 500, passes)
    if options is None:
        return 0
    results = decontaminate(read_documents(options.data, options.documents), options.rounds)
    show(results)
    print_line(results, ("datatrove",))
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # this folder would hide the package `serving`
    sys.exit(main())
