"""`raymill tune`."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import Namespace
from pathlib import Path

from cluster.progress import Progress
from pipelines.commands.options import overrides_of
from pipelines.recipe import read_recipe
from pipelines.tune.drive import run_search
from pipelines.tune.results import check_best_path, publish_results, summary
from pipelines.tune.search import plan_search


def tune(arguments: Namespace) -> int:
    """Do every trial of a search that is not over yet; the table last on stdout. Exit 1 where none finished."""
    search = plan_search(read_recipe(arguments.recipe, overrides_of(arguments)))
    best = Path(arguments.best or f"{search.recipe.name}-best.yaml")
    check_best_path(best)
    with contextlib.redirect_stdout(sys.stderr):  # libraries print there too; standard output is for the result
        records = run_search(search, Progress())
    result = publish_results(search, records, best)
    if arguments.json:
        plain = {name: getattr(result, name) for name in ("id", "objective", "mode", "seconds", "recipe", "report")}
        trials = [trial.model_dump(mode="json") for trial in result.trials]
        number = result.best.number if result.best else None
        print(json.dumps(plain | {"best": number, "trials": trials}, indent=1))
    else:
        print(f"\n{summary(result)}")
    return 0 if result.best else 1
