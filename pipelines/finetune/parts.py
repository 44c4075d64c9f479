"""The examples of a run, by part: where its workers read them, and beside its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.report import Page
from cluster.stage import StageContext

TOLD = 20
"""Rows that a report names of those left out."""


def keep_parts(parts: Mapping[str, str], context: StageContext) -> dict[str, str]:
    """Part -> the store key where workers find it.

    Args:
        parts: name -> JSON lines. They are also written to ``examples/`` of the result.
    """
    keys = {}
    for name, lines in parts.items():
        keys[name] = context.output.resume_key(f"examples/{name}.jsonl")
        context.store.write(keys[name], lines.encode("utf-8"))
        context.output.write_text(f"examples/{name}.jsonl", lines)
    return keys


def tell_left_out(page: Page, details: Mapping[str, Any], bad: Sequence[str], kind: str) -> None:
    """A report's sections on what was not learned from: what is too long, and rows that are no examples.

    Args:
        details: as :func:`pipelines.finetune.load.left_out` has it.
        bad: place and reason of each such row.
        kind: what was counted, such as ``examples``.
    """
    if details["too_long_places"]:
        page.heading("Left out for their length")
        page.paragraph(f"{details['too_long']:,} {kind}, such as {', '.join(details['too_long_places'])}.")
    if bad:
        page.heading("Rows that were left out")
        page.table([{"row": each} for each in bad], most=TOLD)
