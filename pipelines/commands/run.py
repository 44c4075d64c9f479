"""`raymill plan` and `raymill run`."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import Namespace
from dataclasses import asdict

import yaml

from cluster.progress import Progress, table
from cluster.store import open_store
from pipelines.commands.examples import shown_examples
from pipelines.commands.options import recipe_of
from pipelines.graph import build_graph, identities, serves
from pipelines.lifecycle import RunOptions, run_recipe, summary
from pipelines.plan import plan_stages
from pipelines.recipe import dump_recipe
from pipelines.servable import describe, describe_alignment


def plan(arguments: Namespace) -> int:
    """Print what a run would do; nothing is made and nothing heavy is loaded."""
    recipe = recipe_of(arguments)
    nodes = build_graph(recipe)
    store, found = open_store(recipe.store), identities(nodes)
    planned = plan_stages(store, nodes, found)
    notes = [describe(recipe, store)] if "finetune" in found else []
    notes += [describe_alignment(recipe)] if "align" in found else []
    examples = shown_examples(recipe, store, found, arguments.examples) if arguments.examples > 0 else []
    if arguments.json:
        stages = [asdict(stage) for stage in planned]
        print(
            json.dumps(
                {"recipe": dump_recipe(recipe), "stages": stages, "notes": notes, "examples": examples}, indent=1
            )
        )
        return 0
    print(yaml.safe_dump(dump_recipe(recipe), sort_keys=False, allow_unicode=True))
    rows = [{"stage": stage.name, "state": stage.state, "artifact": stage.id} for stage in planned]
    if serves(recipe):
        rows.append({"stage": "serving", "state": "runs every time", "artifact": ""})
    print(table(rows))
    for stage in planned:
        for change in stage.changes:
            print(f"{stage.name} is stale: {change}")
    print("\n".join([*notes, *(["", *examples] if examples else [])]))
    return 0


def run(arguments: Namespace) -> int:
    """Run a recipe; progress on stderr, results last on stdout. Exit 1 where serving did not do what it should."""
    recipe = recipe_of(arguments)
    options = RunOptions(arguments.until, arguments.only, frozenset(arguments.force))
    with contextlib.redirect_stdout(sys.stderr):  # libraries print there too; standard output is for the result
        record = run_recipe(recipe, Progress(), options)
    print(json.dumps(asdict(record), indent=1) if arguments.json else f"\n{summary(record)}")
    return 0 if all(record.serving.values()) else 1
