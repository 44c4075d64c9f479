"""What several commands read from the command line in the same way."""

from __future__ import annotations

import json
from argparse import Namespace

from cluster.errors import UserError
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


def names_profile(arguments: Namespace) -> bool:
    """Whether a profile's place on Kubernetes is meant.

    Raises:
        UserError: a profile is changed, and none is named.
    """
    if not arguments.kubernetes and arguments.profile_overrides:
        change = arguments.profile_overrides[0]
        raise UserError("changes no profile", where=f"--profile-set {change}", next_step="name one by --kubernetes")
    return bool(arguments.kubernetes)
