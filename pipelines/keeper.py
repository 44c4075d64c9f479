"""The Serve application of a RayService: it keeps a recipe deployed on the Ray cluster that it runs on.

KubeRay counts the application as running when its constructor has returned, which is when the models answer; only
then does a new cluster get the callers.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOOK_S = 15.0
"""The kubelet brings a changed ConfigMap to a pod within a minute."""

_log = logging.getLogger("ray.serve")


class Keeper:
    """Deploys the recipe, and again when the file's content changes.

    Args:
        recipe: the recipe's file, whose content may be replaced at any time.
        port: the gateways' port on every node.

    Raises:
        RuntimeError: the recipe cannot be deployed; the message is the command's.
    """

    def __init__(self, recipe: str, port: int) -> None:
        self._recipe, self._port = Path(recipe), port
        self._served = self._digest()
        self._deploy()
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watch the recipe").start()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Deploy again where the recipe changed; a recipe that is refused leaves everything as it was."""
        try:
            now = self._digest()
            if now != self._served:
                self._served = now
                self._deploy()
        except (OSError, RuntimeError) as error:
            _log.error("the changed recipe is not served: %s", error)

    def _digest(self) -> str:
        return hashlib.sha256(self._recipe.read_bytes()).hexdigest()

    def _deploy(self) -> None:
        done = subprocess.run(self.command(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        _log.info("%s%s", done.stdout, done.stderr)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"the command ended with {done.returncode}")

    def command(self) -> list[str]:
        """The command line that deploys it: one gateway on every node, on all addresses of its pod."""
        settings = {
            "serving.host": "0.0.0.0",
            "serving.port": self._port,
            "serving.gateways": 1,
        }
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        own = ["--address", "auto", "--take-over", "--reason", "the recipe of the RayService"]
        return [sys.executable, "-m", "pipelines.cli", "serve", str(self._recipe), *own, *words]


def application(arguments: Mapping[str, Any]) -> Any:
    """The application, as ``import_path`` of a Serve config names it; arguments are those of :class:`Keeper`."""
    from ray import serve

    deployment = serve.deployment(Keeper).options(
        name="keeper",
        num_replicas=1,
        max_constructor_retry_count=3,
        ray_actor_options={"num_cpus": 0},
        health_check_timeout_s=30,
    )
    return deployment.bind(str(arguments["recipe"]), int(arguments["port"]))
