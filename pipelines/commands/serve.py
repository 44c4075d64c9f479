"""`raymill serve`: make what the recipe's variants need, deploy them, and stay until Ctrl-C."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from cluster.config import Document, apply_overrides
from cluster.errors import UserError
from cluster.progress import Progress
from pipelines.commands.options import overrides_of
from pipelines.graph import build_graph, identities, serves
from pipelines.lifecycle import Lifecycle, exercise, require_port
from pipelines.recipe import Recipe, load_recipe, validate_recipe

POLL_SECONDS = 0.5


def serve(arguments: Namespace) -> int:
    """Deploy and hold the foreground; a recipe is first run up to its models and evaluations, from cache."""
    targets = arguments.targets
    overrides = overrides_of(arguments)
    if arguments.port is not None:
        overrides.append(f"serving.port={arguments.port}")
    from_recipe = len(targets) == 1 and targets[0].endswith((".yaml", ".yml"))
    recipe = _serving_recipe(targets[0], overrides) if from_recipe else _recipe_of_models(targets, overrides)
    require_port(recipe)
    with Lifecycle.open(recipe, Progress()) as lifecycle:
        nodes = build_graph(recipe)
        found = identities(nodes)
        for node in nodes:
            lifecycle.make(node, found[node.name], force=False)
        with lifecycle.deployed() as deployment:
            if from_recipe:
                exercise(lifecycle, deployment, restore=True)
            print(f"serving {recipe.name} at {deployment.url} (Ctrl-C stops it)", flush=True)
            while True:
                time.sleep(POLL_SECONDS)


def _serving_recipe(path: str, overrides: list[str]) -> Recipe:
    recipe = load_recipe(path, overrides)
    if not serves(recipe):
        raise UserError(
            "it has no `serving` section",
            where=path,
            next_step="add one with `variants:`, or name models instead of a recipe",
        )
    return recipe


def _recipe_of_models(models: list[str], overrides: list[str]) -> Recipe:
    """Variants ``a``, ``b``, … of equal weight over folders or artifacts."""
    variants: list[Any] = [
        {"name": chr(ord("a") + index), "model": model, "weight": 1} for index, model in enumerate(models)
    ]
    document = Document({"name": "models", "serving": {"variants": variants}}, "raymill serve")
    return validate_recipe(apply_overrides(document, overrides))
