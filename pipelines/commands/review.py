"""`raymill review`: people say which of two models' answers are better, without knowing whose they are."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from cluster.errors import UserError
from cluster.store import open_store
from pipelines.commands.judge import check_folder, length_lines, write_votes


def export(arguments: Namespace) -> int:
    """Write a sheet for reviewers and its key."""
    from evals.decide.judge import answered_pairs
    from evals.decide.reading import load_measured
    from evals.decide.review import export_sheet

    sheet, key = Path(arguments.sheet), Path(arguments.key)
    for path in (arguments.sheet, arguments.key):
        check_folder(path)
    if arguments.sample is not None and arguments.sample < 1:
        raise UserError("must be at least 1", where="--sample", next_step="leave it out for all documents")
    store = open_store(arguments.store)
    a, b = load_measured(store, arguments.a), load_measured(store, arguments.b)
    pairs = answered_pairs(a, b, arguments.suites)
    count = export_sheet(pairs, sheet, key, (a.name, b.name), arguments.sample, arguments.seed)
    print(f"{count:,} lines in {sheet}; give each reviewer a copy, and keep {key} to yourself")
    return 0


def read_back(arguments: Namespace) -> int:
    """Count the votes of filled sheets."""
    from evals.decide.review import import_votes
    from evals.decide.votes import tally_lines

    found, (a, b) = import_votes([Path(sheet) for sheet in arguments.sheets], Path(arguments.key))
    if arguments.votes:
        check_folder(arguments.votes)
        write_votes(arguments.votes, found.votes, "review")
    if arguments.json:
        told = {key: value for key, value in asdict(found).items() if key != "votes"}
        print(json.dumps({"a": a, "b": b, **told}, indent=1))
        return 0
    print("\n".join(tally_lines(found.tally, a, b)))
    print("\nvotes: " + ", ".join(f"{name} {count:,}" for name, count in found.by.items()))
    if len(found.by) > 1:
        shown = "cannot be said" if found.agreement is None else f"{found.agreement:.2f} (1 perfect, 0 chance)"
        print(f"agreement of the reviewers, Krippendorff's alpha: {shown}")
    if found.first_share is not None:
        print(f"the answer on the left won {found.first_share:.0%} of the decided votes")
    print("\n".join(length_lines(found.length, b)))
    return 0
