"""`raymill manifests`: everything that a profile needs on Kubernetes, or a served recipe, as YAML."""

from __future__ import annotations

import re
from argparse import Namespace

import yaml

from cluster.errors import UserError
from cluster.secrecy import leaves, refuse_secrets
from k8s.cluster_profile import load_profile
from k8s.rayservice import service_manifests
from k8s.render import platform, to_yaml
from k8s.rules import require_valid
from pipelines.graph import serves
from pipelines.recipe import read_recipe, validate_recipe

NAME_LETTERS = 47 - len("raymill-")
"""KubeRay refuses longer names of RayServices than 47."""


def manifests(arguments: Namespace) -> int:
    """Print the manifests; nothing is applied."""
    profile = load_profile(arguments.profile, arguments.overrides)
    if arguments.serve:
        name, recipe = served_recipe(arguments.serve, profile.store)
        found = service_manifests(profile, name, recipe)
    else:
        found = platform(profile)
    require_valid(found, profile.feature_gates, f"profile {arguments.profile}")
    print(to_yaml(found), end="")
    return 0


def served_recipe(path: str, store: str) -> tuple[str, str]:
    """(name as a label, YAML text) of a recipe as it is served on a cluster.

    Raises:
        UserError: it serves nothing, or holds what looks like a secret.
    """
    document = read_recipe(path, [f"store={store}", "cluster.address=auto"])
    recipe = validate_recipe(document)
    if not serves(recipe):
        raise UserError("it has no `serving` section", where=path, next_step="add one with `variants:`")
    refuse_secrets(dict(leaves(document.data)), f"recipe {recipe.name}")
    name = re.sub(r"[^a-z0-9]+", "-", recipe.name)[:NAME_LETTERS].strip("-")
    return f"raymill-{name}", yaml.safe_dump(document.data, sort_keys=False, allow_unicode=True)
