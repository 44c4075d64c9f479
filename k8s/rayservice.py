"""RayService: a served recipe. KubeRay replaces its cluster; which model answers whom is the gateway's own affair.

Its one Serve application is a keeper (``pipelines/keeper.py``): it deploys the mounted recipe on its cluster, again
whenever the recipe's ConfigMap changes, and counts as running once the models answer. A new cluster takes the
deployment over from the old one, with weights, keys and limits as they are in the store.
"""

from __future__ import annotations

import yaml

from k8s.access import budget
from k8s.cluster_profile import Profile
from k8s.names import HEAD, RECIPE_FILE, RECIPE_FOLDER, SERVING_PRIORITY, WORKER, Manifest, labels, metadata
from k8s.raycluster import cluster_spec

KEEPER = "pipelines.keeper:application"
START_TIMEOUT = "1h"


def service_manifests(profile: Profile, name: str, recipe: str) -> list[Manifest]:
    """The ConfigMap with the recipe, the RayService, and budgets for its head and workers.

    Args:
        name: the recipe's name, made a label.
        recipe: its YAML text, complete.
    """
    held = f"{name}-recipe"
    found: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(held, profile.namespace, labels=labels("recipe", name)),
            "data": {RECIPE_FILE: recipe},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayService",
            "metadata": metadata(name, profile.namespace, annotations={"ray.io/initializing-timeout": START_TIMEOUT}),
            "spec": {
                "serveConfigV2": yaml.safe_dump(_serve_config(profile), sort_keys=False),
                "upgradeStrategy": {"type": "NewCluster"},
                "rayClusterDeletionDelaySeconds": profile.serving.deletion_delay_seconds,
                "rayClusterConfig": cluster_spec(profile, name, recipe=held, priority=SERVING_PRIORITY),
            },
        },
    ]
    found.append(budget(profile, f"{name}-head", labels(HEAD, name), 1))
    least = sum(group.minimum for group in profile.workers)
    if least > 1:
        found.append(budget(profile, f"{name}-workers", labels(WORKER, name), least - 1))
    return found


def _serve_config(profile: Profile) -> Manifest:
    keeper = {
        "name": "keeper",
        "import_path": KEEPER,
        "route_prefix": None,
        "args": {"recipe": f"{RECIPE_FOLDER}/{RECIPE_FILE}", "port": profile.serving.port},
    }
    # Requests do not cross Serve; the gateway on each pod answers the health checks of its proxy, too.
    return {"proxy_location": "Disabled", "applications": [keeper]}
