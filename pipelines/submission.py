"""From a recipe on this machine to what runs on a cluster: a :class:`cluster.jobs.Submission` and its plan."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import RaymillError, UserError
from cluster.job_record import read_job
from cluster.jobs import RECIPE_FILE, Submission
from cluster.package import Package, pack
from cluster.progress import table
from cluster.secrecy import leaves
from cluster.store import open_store
from pipelines.graph import asked_for, build_graph, identities
from pipelines.plan import PlannedStage, plan_stages
from pipelines.recipe import Recipe, read_recipe, validate_recipe

COMMAND = ("python", "-m", "pipelines.job")
"""`python` is what the cluster's PATH says: on a cluster of `raymill cluster up`, this one; in an image, its own."""

KEYS_OF_PLACES = ("path", "model", "data", "existing", "benchmarks", "good", "bad")
"""Keys of a recipe whose value may be the bare name of a folder."""
LONGEST_PLACE = 1024
"""A longer text is no path."""


@dataclass
class SubmissionPlan:
    """A submission, and what a person should know before it is sent.

    Attributes:
        stages: the state in the store of every stage that is to run; empty where the store cannot be read from here.
        serves: whether serving comes after them.
        notes: what is worth knowing or doubtful.
    """

    submission: Submission
    recipe: Recipe
    stages: list[PlannedStage] = field(default_factory=list)
    serves: bool = False
    notes: list[str] = field(default_factory=list)

    def render(self, where: str) -> str:
        """The plan as text."""
        sent = self.submission
        rows = {"run": sent.id, "on": where, "store": sent.store, "code": _code(sent), "runs": _entrypoint(sent)}
        if sent.environment:
            rows["environment"] = ", ".join(f"{name}={value}" for name, value in sorted(sent.environment.items()))
        if sent.driver:
            rows["reserves"] = ", ".join(f"{amount:g} {name}" for name, amount in sent.driver.items())
        width = max(map(len, rows))
        parts = [f"{name:<{width}}  {value}" for name, value in rows.items()]
        if self.stages:
            lines = [{"stage": stage.name, "state": stage.state, "artifact": stage.id} for stage in self.stages]
            if self.serves:
                lines.append({"stage": "serving", "state": "runs every time", "artifact": ""})
            parts += ["", table(lines)]
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        sent = self.submission
        return {
            "run": sent.id,
            "store": sent.store,
            "entrypoint": _entrypoint(sent),
            "environment": dict(sent.environment),
            "code": {"files": len(sent.package.files), "bytes": sent.package.size_bytes} if sent.package else None,
            "image": sent.image,
            "stages": [{"stage": each.name, "state": each.state, "artifact": each.id} for each in self.stages],
            "notes": self.notes,
        }


def _entrypoint(submission: Submission) -> str:
    """The command line; without a package the recipe alone is the job's folder."""
    return submission.entrypoint_text(RECIPE_FILE if submission.package else Path(RECIPE_FILE).name)


def _code(submission: Submission) -> str:
    if submission.package is None:
        return f"image {submission.image}" if submission.image else "the cluster's own"
    package = submission.package
    if set(package.files) == {RECIPE_FILE}:
        return "the cluster's own, and the recipe"
    return f"{len(package.files)} files, {package.size_bytes / (1 << 20):.1f} MiB, {package.digest[:12]}"


def plan_submission(
    arguments: Namespace,
    *,
    image: str = "",
    environment: dict[str, str] | None = None,
    overrides: Sequence[str] = (),
    with_package: bool = True,
    mounted: bool = False,
) -> SubmissionPlan:
    """What the arguments of `raymill submit` ask for.

    Args:
        image: the container image that the job runs in, where one is known.
        environment: further variables of the job.
        overrides: further changes of the recipe, before those of the command line.
        with_package: whether a package is made even of the recipe alone (Kubernetes mounts it instead).
        mounted: the store is a folder of the cluster's pods, which this machine does not see.

    Raises:
        UserError: a mistake in the recipe or the arguments, too much code, or something that looks like a secret.
    """
    changes = [*overrides, *arguments.overrides]
    if arguments.store:
        changes.append(f"store={json.dumps(arguments.store)}")
    changes.append('cluster.address="auto"')
    document = read_recipe(arguments.recipe, changes)
    recipe = validate_recipe(document)
    nodes = build_graph(recipe)
    chosen, will_serve = asked_for(recipe, nodes, arguments.until, arguments.only, arguments.force)
    store = recipe.store if "://" in recipe.store else str(Path(recipe.store).expanduser().resolve())
    text = yaml.safe_dump({**document.data, "store": store}, sort_keys=False, allow_unicode=True)
    plan = SubmissionPlan(
        Submission(
            name=recipe.name,
            recipe=text,
            store=store,
            command=COMMAND,
            arguments=_arguments(arguments),
            environment=(environment or {}) | _environment(arguments.env),
            package=_package(arguments, text) if with_package or not arguments.no_code else None,
            driver={"CPU": arguments.driver_cpus} if arguments.driver_cpus else {},
            image=image,
        ),
        recipe,
        serves=will_serve,
    )
    plan.submission.check_secrets(document.data)
    if plan.submission.package and plan.submission.package.secret:
        left = ", ".join(plan.submission.package.secret)
        plan.notes.append(f"left out, since they look like secrets: {left}")
    if plan.submission.package and plan.submission.package.outside:
        left = ", ".join(plan.submission.package.outside)
        plan.notes.append(f"left out, since they are links to places elsewhere: {left}")
    if mounted:
        plan.notes.append("the store is a volume of the cluster: what is published there cannot be told from here")
        return plan
    if "://" not in store:
        plan.notes.append("the store is a folder: every node must see it at this very path")
    try:
        where = open_store(store)
        running = read_job(where, plan.submission.id)
        if running is not None and not running.over and not running.lost():
            plan.notes.append(
                f"attempt {running.attempt} of this run is at work on {running.host or 'some host'}; submitted to"
                " another cluster, a new one takes the run over and that one ends"
            )
        plan.stages = plan_stages(where, chosen, identities(nodes))
    except (RaymillError, OSError) as error:
        plan.notes.append(f"what is published cannot be told from here: {error}".replace("\n ", ";"))
    return plan


def left_behind(plan: SubmissionPlan) -> list[str]:
    """Notes on files of this machine that the recipe names and that do not travel: a pod has its own."""
    travels = plan.submission.package.files if plan.submission.package else ()
    notes = []
    for where, text in leaves(yaml.safe_load(plan.submission.recipe)):
        looks_so = "/" in text or where.rpartition(".")[2] in KEYS_OF_PLACES
        if where == "store" or "://" in text or not looks_so or len(text) > LONGEST_PLACE or not Path(text).exists():
            continue
        place = Path(text)
        if place.is_absolute() or not any(Path(each).is_relative_to(place) for each in travels):
            notes.append(
                f"{where}: {text} is on this machine, and the job looks for it in its pod: it must be in the image, in"
                " the store's bucket or volume, or travel with --working-dir"
            )
    return notes


def _package(arguments: Namespace, recipe: str) -> Package:
    extra = {RECIPE_FILE: recipe.encode("utf-8")}
    if arguments.no_code:
        return pack(Path("/nonexistent"), extra)
    folder = Path(arguments.working_dir or ".")
    if not folder.is_dir():
        raise UserError("is not a folder", where=f"--working-dir {folder}", next_step="name the folder with your code")
    return pack(folder, extra)


def _arguments(arguments: Namespace) -> tuple[str, ...]:
    words: list[str] = []
    for option in ("until", "only"):
        if value := getattr(arguments, option):
            words += [f"--{option}", value]
    for stage in arguments.force:
        words += ["--force", stage]
    return tuple(words)


def _environment(assignments: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise UserError("reads NAME=VALUE", where=f"--env {text}", next_step="for example --env OMP_NUM_THREADS=1")
        found[name] = value
    return found
