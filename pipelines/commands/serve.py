"""`raymill serve`: make what the recipe's variants need, deploy them, and stay where Ray is this process's own."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from cluster import interrupt
from cluster.config import Document, apply_overrides
from cluster.errors import UserError
from cluster.progress import Progress
from pipelines.commands.options import overrides_of
from pipelines.graph import build_graph, identities, serves
from pipelines.lifecycle import Lifecycle, require_port, stay
from pipelines.recipe import Recipe, load_recipe, validate_recipe

END_SECONDS = 30.0
"""For engines and Ray to end, after the answers in flight had their time."""


def serve(arguments: Namespace) -> int:
    """Deploy; a recipe is first run up to its models and evaluations, from cache.

    An embedded Ray holds the foreground until Ctrl-C (exit 130), SIGTERM or `raymill undeploy` (exit 0); answers in
    flight finish first.
    """
    targets = arguments.targets
    overrides = overrides_of(arguments)
    if arguments.port is not None:
        overrides.append(f"serving.port={arguments.port}")
        if arguments.port == 0:
            overrides.append("serving.admin_port=0")
    from_recipe = len(targets) == 1 and targets[0].endswith((".yaml", ".yml"))
    recipe = _serving_recipe(targets[0], overrides) if from_recipe else _recipe_of_models(targets, overrides)
    local = recipe.cluster.address == "local"
    if local:
        require_port(recipe)
    with Lifecycle.open(recipe, Progress()) as lifecycle:
        nodes = build_graph(recipe)
        found = identities(nodes)
        for node in nodes:
            lifecycle.make(node, found[node.name], force=False)
        with lifecycle.deployed(arguments.reason, take_over=arguments.take_over) as deployment:
            if not local:
                print(f"serving {recipe.name} at {deployment.url} (`raymill undeploy` ends it)", flush=True)
                return 0
            interrupt.allow(recipe.serving.limits.drain_seconds + END_SECONDS)
            print(f"serving {recipe.name} at {deployment.url} (Ctrl-C stops it)", flush=True)
            try:
                stay(deployment, END_SECONDS)
            except KeyboardInterrupt:
                if not interrupt.was_terminated():
                    raise
    return 0


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
