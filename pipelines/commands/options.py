"""What several commands read from the command line in the same way."""

from __future__ import annotations

import json
from argparse import Namespace

from pipelines.recipe import Recipe, load_recipe


def overrides_of(arguments: Namespace) -> list[str]:
    """The recipe's changes: every ``--set``, then ``--store`` and ``--address``."""
    overrides = list(arguments.overrides)
    if arguments.store:
        overrides.append(f"store={json.dumps(arguments.store)}")
    if arguments.address:
        overrides.append(f"cluster.address={json.dumps(arguments.address)}")
    return overrides


def recipe_of(arguments: Namespace) -> Recipe:
    """The recipe with the command line's changes applied."""
    return load_recipe(arguments.recipe, overrides_of(arguments))
