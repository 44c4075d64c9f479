"""`raymill benchmarks mirror`: copy the evaluation sets to a folder or a bucket, for clusters without a network."""

from __future__ import annotations

from argparse import Namespace

from evals.config import SUITES, known_suites
from evals.presets import PRESETS


def mirror(arguments: Namespace) -> int:
    """Copy the datasets that the suites read, with a manifest of their checksums."""
    from cluster.errors import UserError
    from evals.mirroring import mirror_suites

    named = tuple(arguments.suites)
    if arguments.preset is not None:
        if arguments.preset not in PRESETS:
            raise UserError(
                f"unknown preset {arguments.preset!r}", where="--preset", next_step=f"known: {', '.join(PRESETS)}"
            )
        named += tuple(suite for suite in PRESETS[arguments.preset].suites if suite not in named)
    try:
        suites = known_suites(named or (*SUITES, "truthfulqa_gen"), arguments.tasks)
    except ValueError as error:
        raise UserError(str(error), where="--suite") from None
    files = mirror_suites(arguments.source, arguments.destination, suites, arguments.tasks)
    size = sum(entry.bytes for entry in files.values())
    print(f"{len(files):,} files, {size / 1e6:,.1f} MB, in {arguments.destination}")
    print(f"use it with `raymill eval MODEL --benchmarks {arguments.destination}`, or RAYMILL_BENCHMARKS")
    return 0
