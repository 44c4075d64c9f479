"""`raymill compare`: which of two evaluated models is better, and how sure that is. Needs the store, not Ray."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from cluster.errors import UserError
from cluster.progress import table
from cluster.report import Page
from cluster.store import open_store

SHOWN_FLIPPED = 3


def compare(arguments: Namespace) -> int:
    """Print the verdict and the table behind it; exit 0 whatever the verdict is (`raymill gate` decides)."""
    from evals.decide.comparison import compare as compare_measured
    from evals.decide.page import comparison_page
    from evals.decide.reading import load_measured
    from evals.decide.words import as_json, sentence, table_rows

    alpha = checked_alpha(arguments.alpha)
    store = open_store(arguments.store)
    a, b = load_measured(store, arguments.a), load_measured(store, arguments.b)
    found = compare_measured(
        a, b, metrics=_metrics(arguments.metrics), alpha=alpha, any_settings=arguments.any_settings
    )
    if arguments.page:
        write_page(comparison_page(found), arguments.page)
    if arguments.json:
        print(json.dumps(as_json(found), indent=1))
        return 0
    print(f"A: {a.name} ({a.model})\nB: {b.name} ({b.model})\n\n{sentence(found)}\n")
    print(table(table_rows(found)))
    own = sorted({row.metric for row in found.rows if not row.in_points})
    units = f" ({', '.join(own)}: in the metric's own unit)" if own else ""
    print(f"\nB - A and what is detectable in percentage points{units}; the verdict rests on p (Holm)")
    if arguments.tasks:
        for suite, rows in found.tasks.items():
            print(f"\n{suite} by task\n{table(table_rows(found, rows))}")
    for suite, flipped in found.flipped.items():
        gained = sum(flip.gained for flip in flipped)
        print(f"\n{suite}: {gained:,} answers became right, {len(flipped) - gained:,} became wrong")
        for flip in flipped[:SHOWN_FLIPPED]:
            print(f"  {flip.key[0]} {flip.key[1][:12]} {_question(flip.a.prompt)}")
            print(f"    A: {flip.a.chosen[:60]}  B: {flip.b.chosen[:60]}")
    for line in found.left_out:
        print(f"not compared: {line}")
    if arguments.page:
        print(f"\neverything to look at: {arguments.page}")
    return 0


def _question(prompt: str) -> str:
    """The last line of a prompt that says more than "Answer:"."""
    lines = [line for line in prompt.splitlines() if line.strip() and not line.strip().startswith("Answer")]
    return lines[-1][:90] if lines else ""


def checked_alpha(alpha: float) -> float:
    """A chance of error that a test can have.

    Raises:
        UserError: it is not between 0 and a half.
    """
    if not 0 < alpha < 0.5:
        raise UserError("must lie between 0 and 0.5", where="--alpha", next_step="0.05 is usual")
    return alpha


def write_page(page: Page, path: str) -> None:
    """Write a report; it is there whole or not at all."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.part")
    try:
        aside.write_text(page.render(), encoding="utf-8")
        aside.replace(target)
    except FileNotFoundError:
        raise UserError("its folder does not exist", where=path, next_step="make it first") from None


def _metrics(texts: list[str]) -> dict[str, str]:
    chosen = {}
    for text in texts:
        suite, separator, metric = text.partition("=")
        if not separator:
            raise UserError("reads SUITE=METRIC", where=f"--metric {text}", next_step="for example arc_easy=acc_norm")
        chosen[suite] = metric
    return chosen
