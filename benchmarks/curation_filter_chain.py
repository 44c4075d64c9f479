"""The four-filter chain against datatrove: Gopher repetition, Gopher quality, C4 and FineWeb with identical decisions.

Each side runs in a fresh process on the same core, the sides taking turns. What is timed is one pass over all documents
with everything that a side needs for it: imports, tokenizer, and an empty memory of words. Machine code that was
compiled once on this machine is read from disk: an unmeasured start of each side comes first. Decisions, reasons and
remaining texts are compared document by document. It needs datatrove (extra: dev).

    python benchmarks/curation_filter_chain.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIECE_CHARACTERS = (300, 2500)
SEED = 4
SETTINGS: dict[str, Any] = {
    "quality": ["gopher", "c4", "fineweb"],
    "gopher_repetition": {"count_single_ngrams": True, "symbols_are_words": True},
    "gopher_quality": {"count_heading_marks": True, "symbols_are_words": True},
    "c4": {
        "curly_bracket": True,
        "min_words_in_line": 3,
        "javascript": True,
        "citations": True,
        "keep_layout": False,
    },
}
"""datatrove's decisions; see pipelines/curate/README.md."""
PEER_REASONS = {
    "dup_para_frac": "gopher_repetition.duplicate_paragraphs",
    "dup_para_char_frac": "gopher_repetition.duplicate_paragraph_characters",
    "dup_line_frac": "gopher_repetition.duplicate_lines",
    "dup_line_char_frac": "gopher_repetition.duplicate_line_characters",
    **{f"top_{n}_gram": f"gopher_repetition.top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"gopher_repetition.duplicate_{n}_grams" for n in range(5, 11)},
    "gopher_short_doc": "gopher_quality.min_words",
    "gopher_long_doc": "gopher_quality.max_words",
    "gopher_below_avg_threshold": "gopher_quality.min_mean_word_length",
    "gopher_above_avg_threshold": "gopher_quality.max_mean_word_length",
    "gopher_too_many_hashes": "gopher_quality.hash_signs",
    "gopher_too_many_ellipsis": "gopher_quality.ellipses",
    "gopher_too_many_bullets": "gopher_quality.bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher_quality.ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_quality.alphabetic_words",
    "gopher_enough_stop_words": "gopher_quality.stop_words",
    "lorem_ipsum": "c4.lorem_ipsum",
    "curly_bracket": "c4.curly_bracket",
    "too_few_sentences": "c4.min_sentences",
    "line_punct_ratio": "fineweb.line_punctuation",
    "short_line_ratio": "fineweb.short_lines",
    "char_dup_ratio": "fineweb.duplicate_line_characters",
    "list_ratio": "fineweb.line_ends",
}

Decide = Callable[[str], tuple[str, str | None]]


def make_documents(data: Path | None, count: int) -> list[str]:
    """Real texts of 300 to 2,500 characters or a little more, cut at line ends, in an order that mixes sources."""
    from benchmarks.curation_minhash import docstrings, stored_texts

    generator = random.Random(SEED)
    documents: list[str] = []

    def cut(texts: Iterator[str]) -> None:
        for text in texts:
            held, target = "", generator.randint(*PIECE_CHARACTERS)
            for line in text.splitlines(keepends=True):
                held += line
                if len(held) >= target:
                    documents.append(held)
                    held, target = "", generator.randint(*PIECE_CHARACTERS)
            if len(held) >= PIECE_CHARACTERS[0]:
                documents.append(held)
            if len(documents) >= count:
                return

    if data is not None:
        cut(stored_texts(data))
    cut(docstrings())
    del documents[count:]
    generator.shuffle(documents)
    return documents


def ours(words: str) -> Decide:
    from pipelines.curate.config import CurateConfig
    from pipelines.curate.quality_chain import QualityChain

    return QualityChain(CurateConfig.model_validate({**SETTINGS, "words": words})).decide


def peer() -> Decide:
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = (
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    )

    def decide(text: str) -> tuple[str, str | None]:
        document = Document(text=text, id="")
        for each in filters:
            result = each.filter(document)
            if result is not True:
                return text, PEER_REASONS[result[1]]
        return document.text, None

    return decide


SIDES: dict[str, Callable[[], Decide]] = {"ours": lambda: ours("reference"), "fast": lambda: ours("fast"), "peer": peer}


def measure_here(side: str, path: str) -> None:
    """One pass in this process; prints seconds, peak memory and decisions."""
    from benchmarks.one_core import peak_mb, read_input

    documents = read_input(path)
    begin = time.perf_counter()
    decide = SIDES[side]()
    results = [decide(text) for text in documents]
    seconds = time.perf_counter() - begin
    peak = peak_mb()
    decisions = [
        (reason, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]) for text, reason in results
    ]
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "decisions": decisions}))


def filter_chain(documents: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Results named ``filter_chain`` (identical decisions) and ``filter_chain_fast`` (words: fast)."""
    from benchmarks.one_core import compare, take_turns

    taken = take_turns(__file__, SIDES, documents, rounds, warm=True)
    peers = taken["peer"]
    results = []
    for name, side in (("filter_chain", "ours"), ("filter_chain_fast", "fast")):
        runs = taken[side]
        pairs = list(zip(runs[0]["decisions"], peers[0]["decisions"], strict=True))
        counted = {
            "agreement": sum(a == b for a, b in pairs) / len(pairs),
            "agreement_keep_or_drop": sum((a[0] is None) == (b[0] is None) for a, b in pairs) / len(pairs),
            "kept": sum(a[0] is None for a, _ in pairs),
            "reasons": dict(Counter(a[0] for a, _ in pairs if a[0]).most_common()),
        }
        results.append(compare(name, "datatrove", runs, peers, documents) | counted)
    return results


def show(results: Sequence[dict[str, Any]]) -> None:
    """The table for people."""
    print(f"{'':<18}{'documents/s':>12}{'MB/s':>8}{'peak MB':>9}{'peer':>8}{'MB/s':>8}{'ratio':>8}{'agreement':>12}")
    for each in results:
        print(
            f"{each['name']:<18}{each['ours']:>12,.0f}{each['mb_per_s']:>8.2f}{each['peak_mb']:>9,.0f}"
            f"{each['peer_value']:>8,.0f}{each['peer_mb_per_s']:>8.2f}{each['ratio']:>8.1f}{each['agreement']:>12.4%}"
        )


def main() -> int:
    from benchmarks.one_core import print_line, read_options

    passes = {side: partial(measure_here, side) for side in SIDES}
    folder = "folder of .txt and .jsonl files, read before Python's documentation"
    options = read_options(__doc__, folder, 10_000, 500, passes)
    if options is None:
        return 0
    results = filter_chain(make_documents(options.data, options.documents), options.rounds)
    show(results)
    print_line(results, ("datatrove", "spacy", "numba"))
    return 0 if results[0]["agreement"] == 1.0 else 1


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # this folder would hide the package `serving`
    sys.exit(main())
