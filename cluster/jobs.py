"""What a submission is: one recipe to run on a cluster somewhere, the same for the Ray Jobs API and for Kubernetes.

Its id follows from what is run (recipe, code, store, arguments), so submitting the same again means the same run:
whoever submits finds the job that is there. A run that failed is tried again as another *attempt* of the same id.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.package import Package
from cluster.secrecy import leaves, refuse_secret_words, refuse_secrets

RECIPE_FILE = ".raymill/recipe.yaml"
"""Where the recipe is below a job's working directory, when its code travels as a package."""
ID_LETTERS = 44
"""KubeRay refuses longer names of RayJobs than 47; three are left for the attempt, up to ``-99``."""
INFRASTRUCTURE_CODES = (3, 137, 143)
"""Of a run that may go better next time: an InfraError of ours, or a process that somebody killed."""
_NAME_LETTERS = ID_LETTERS - len("raymill--") - 12


@dataclass(frozen=True)
class Submission:
    """See the module's text.

    Attributes:
        name: the recipe's name.
        recipe: the recipe as YAML text, complete: overrides are in it, and where it runs is ``auto``.
        store: the address of the store; every node must be able to open it.
        command: the words that run a recipe's file (``python -m …``), without the file.
        arguments: words after the file, such as ``--until tokens``.
        environment: variables of the job, none of them a secret.
        package: the code that travels; None where it is in the image.
        driver: what the job's own process reserves (CPU, GPU or custom resources); with any of it Ray may place it on
            a worker node, without it the head is where it runs.
        image: the container image that holds the code; empty where nothing but the package decides.
    """

    name: str
    recipe: str
    store: str
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    package: Package | None = None
    driver: Mapping[str, float] = field(default_factory=dict)
    image: str = ""

    @property
    def id(self) -> str:
        """``raymill-<recipe's name>-<12 hex digits>``: a name that Ray and Kubernetes accept, of ID_LETTERS at most."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower())[:_NAME_LETTERS].strip("-") or "run"
        return f"raymill-{name}-{self.digest[:12]}"

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of everything that decides what is run; how it is called does not."""
        decides = {
            "recipe": self.recipe,
            "store": self.store,
            "arguments": list(self.arguments),
            "code": self.package.digest if self.package else "",
            "image": self.image,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode("utf-8")).hexdigest()

    def entrypoint(self, recipe_file: str = RECIPE_FILE) -> list[str]:
        """The command line of the job, as words.

        Args:
            recipe_file: the recipe's path as the job sees it.
        """
        return [*self.command, recipe_file, "--id", self.id, *self.arguments]

    def entrypoint_text(self, recipe_file: str = RECIPE_FILE) -> str:
        """The same as one line for a shell."""
        return shlex.join(self.entrypoint(recipe_file))

    def metadata(self) -> dict[str, str]:
        """What a cluster keeps beside the job, to find it by."""
        return {"raymill_run": self.id, "raymill_recipe": self.name, "raymill_store": self.store}

    def check_secrets(self, recipe: Mapping[str, Any]) -> None:
        """Raise UserError where something that others can read looks like a secret.

        Args:
            recipe: the recipe's plain values.
        """
        refuse_secrets(self.environment, "the job's environment")
        refuse_secret_words(self.arguments, "the job's command line")
        refuse_secrets(dict(leaves(recipe)), f"recipe {self.name}")


def attempt_id(run_id: str, attempt: int) -> str:
    """The id of one attempt (from 1) at a run."""
    return run_id if attempt == 1 else f"{run_id}-{attempt}"


def attempt_of(run_id: str, job_id: str) -> int | None:
    """Which attempt at a run a job is; None where it is none."""
    if job_id == run_id:
        return 1
    tail = job_id.removeprefix(f"{run_id}-")
    return int(tail) if tail != job_id and tail.isdigit() else None
