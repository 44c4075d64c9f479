"""Redaction of e-mail and IP addresses against datatrove's PIIFormatter: one core, cold, identical decisions.

Each side runs in a fresh process on the same core, the sides taking turns; what is timed is making the redactor and one
pass over all documents, without imports. Decisions are compared document by document. It needs datatrove (extra: dev).

    python benchmarks/curation_redaction.py [--data FOLDER] [--documents N] [--rounds N] [--quick]
"""

from __future__ import annotations

import hashlib
import json
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Make = Callable[[], Callable[[str], str]]
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


def _ours() -> Make:
    from pipelines.curate.redact import RedactConfig, Redactor

    def make() -> Callable[[str], str]:
        redactor = Redactor(RedactConfig(types=("email", "ip"), addresses="reference"))
        return lambda text: redactor(text)[0]

    return make


def _peer() -> Make:
    from datatrove.pipeline.formatters.pii import PIIFormatter

    def make() -> Callable[[str], str]:
        format_: Callable[[str], str] = PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>").format
        return format_

    return make


def _strict() -> Make:
    from pipelines.curate.redact import RedactConfig, Redactor

    def make() -> Callable[[str], str]:
        redactor = Redactor(RedactConfig(types=("email", "ip")))
        return lambda text: redactor(text)[0]

    return make


SIDES = {"ours": _ours, "peer": _peer, "strict": _strict}


def measure_here(side: str, path: str) -> None:
    """One pass in this process; prints seconds, peak memory and the hashes of the results."""
    from benchmarks.one_core import peak_mb, read_input

    documents = read_input(path)
    make = SIDES[side]()
    begin = time.perf_counter()
    redact = make()
    results = [redact(text) for text in documents]
    seconds = time.perf_counter() - begin
    peak = peak_mb()
    hashes = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in results]
    changed = sum(a != b for a, b in zip(results, documents, strict=True))
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "changed": changed, "hashes": hashes}))


def redaction(documents: Sequence[str], rounds: int = 3) -> list[dict[str, Any]]:
    """Results named ``redaction`` (identical decisions) and ``redaction_strict`` (the default rules)."""
    from benchmarks.one_core import compare, take_turns

    taken = take_turns(__file__, SIDES, documents, rounds)
    peers = taken["peer"]
    results = []
    for name, side in (("redaction", "ours"), ("redaction_strict", "strict")):
        runs = taken[side]
        same = sum(a == b for a, b in zip(runs[0]["hashes"], peers[0]["hashes"], strict=True))
        counted = {"changed": runs[0]["changed"], "agreement": same / len(documents)}
        results.append(compare(name, "datatrove PIIFormatter", runs, peers, documents) | counted)
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
    from benchmarks.one_core import print_line, read_options

    passes = {side: partial(measure_here, side) for side in SIDES}
    options = read_options(__doc__, "folder of texts; by default only what is installed here", 12_000, 1000, passes)
    if options is None:
        return 0
    results = redaction(read_documents(options.data, options.documents), options.rounds)
    show(results)
    print_line(results, ("datatrove",))
    return 0 if results[0]["agreement"] == 1.0 else 1


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # this folder would hide the package `serving`
    sys.exit(main())
