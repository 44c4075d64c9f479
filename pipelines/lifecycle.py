"""From a recipe to everything it names: run what is not published yet, serve, check the objective, report."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import interrupt
from cluster.artifact import Artifact, Identity, find_artifact, load_artifact
from cluster.errors import RaymillError, UserError
from cluster.job_record import guard_of
from cluster.progress import Progress, duration, table
from cluster.resources import require_resources
from cluster.session import connect, declared_cpus
from cluster.stage import execute, load_entry
from cluster.store import Store, open_store
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.quantised import require_on_workers
from pipelines.graph import Node, asked_for, build_graph, identities
from pipelines.headlines import metric_label
from pipelines.objective import TargetResult
from pipelines.recipe import Recipe
from pipelines.runs import RunRecord, StageLine, new_run, publish_run, stage_line, target_rows
from pipelines.servable import require_servable
from pipelines.train.config import TrainConfig
from pipelines.train.mlflow_log import require_mlflow
from serving.config import AuthConfig, ServingConfig
from serving.control.ports import require_free

if TYPE_CHECKING:
    from serving.control.deploy import Deployment
    from serving.engines.plan import VariantSource
    from serving.exercise.run import TrafficReport

POLL_SECONDS = 0.5


@dataclass
class Lifecycle:
    """One recipe at work. Ray is started when the first stage needs it, and ended with the context.

    Attributes:
        made: node name -> its artifact, as far as the run has come.
        guard: called before anything is published; it raises where another attempt at the run took over.
    """

    recipe: Recipe
    store: Store
    progress: Progress
    made: dict[str, Artifact] = field(default_factory=dict)
    guard: Callable[[], None] = lambda: None
    _stack: ExitStack = field(default_factory=ExitStack)
    _connected: bool = False

    @classmethod
    @contextmanager
    def open(cls, recipe: Recipe, progress: Progress, guard: Callable[[], None] = lambda: None) -> Iterator[Lifecycle]:
        """A lifecycle over the recipe's store.

        Raises:
            UserError, InfraError: the store cannot be written.
        """
        store = open_store(recipe.store)
        store.check_writable()
        lifecycle = cls(recipe, store, progress, guard=guard)
        with lifecycle._stack:
            yield lifecycle

    def need_ray(self) -> None:
        """Have a Ray from now on, until the context ends."""
        if not self._connected:
            self._stack.enter_context(connect(self.recipe.cluster, self.progress.say))
            interrupt.install()  # Ray has put handlers of its own in place
            self._connected = True

    def check(self, node: Node, identity: Identity, *, force: bool) -> None:
        """Raise UserError for what a stage would refuse once its turn came, where it is going to run."""
        if not force and load_artifact(self.store, identity.id) is not None:
            return
        if node.stage.check:
            load_entry(node.stage.check)(node.config, self.store)
        if isinstance(node.config, TrainConfig):
            if node.config.mlflow:
                require_mlflow(node.section)
            self._require_workers(node.config, node.section)

    def _require_workers(self, config: TrainConfig, section: str) -> None:
        """Refuse more training workers than there is room for: without starting Ray where that can be known."""
        if self.recipe.cluster.address == "local":
            require_resources(config.workers, section, has={"CPU": declared_cpus(self.recipe.cluster)})
            if not config.gpus_per_worker:
                return
        self.need_ray()
        advice = f"or set {section}.gpus_per_worker: 0"
        require_resources(config.workers, section, gpus=config.gpus_per_worker, gpu_advice=advice)
        if isinstance(config, FinetuneConfig):
            require_on_workers(config)

    def make(self, node: Node, identity: Identity, *, force: bool) -> StageLine:
        """One stage's artifact, published before or made now."""
        with self.progress.track(node.name) as tracker:
            if load_artifact(self.store, identity.id) is None or force:
                self.need_ray()
            inputs = {role: self.made[name] for role, name in node.inputs.items()}
            result = execute(
                node.stage, identity, node.config, inputs, self.store, tracker, force=force, guard=self.guard
            )
        self.made[node.name] = result.artifact
        line = stage_line(result.artifact, result.cached, result.seconds)
        self.progress.say(
            f"[{node.name}] {line.state} in {duration(result.seconds)}: {line.result}  ({line.artifact_id})"
        )
        return line

    @contextmanager
    def deployed(self, reason: str = "", *, take_over: bool = False) -> Iterator[Deployment]:
        """The recipe's variants behind one URL, from the state in the store; see :func:`serving.control.deploy.deploy`.

        On an embedded Ray it is shut down when the context ends; elsewhere it stays. ``reason`` is for the journal.
        ``take_over``: from another cluster.
        """
        detached = self.recipe.cluster.address != "local"
        with self._deploy(
            self.recipe.serving, self.store, detached=detached, reason=reason, take_over=take_over
        ) as deployment:
            yield deployment

    @contextmanager
    def exercised(self) -> Iterator[Deployment]:
        """The recipe's variants for this process alone: no state that is kept, no rollout, on loopback."""
        own = {"host": "127.0.0.1", "admin_port": 0, "rollout": None, "auth": AuthConfig(require_keys=False)}
        config = self.recipe.serving.model_copy(update=own)
        with (
            tempfile.TemporaryDirectory(prefix="raymill-exercise-") as folder,
            self._deploy(config, open_store(folder), detached=False) as deployment,
        ):
            yield deployment

    @contextmanager
    def _deploy(
        self, config: ServingConfig, state: Store, *, detached: bool, reason: str = "", take_over: bool = False
    ) -> Iterator[Deployment]:
        from serving.control.deploy import deploy

        sources = served_models(self.recipe, self.store, self.made)
        self.need_ray()
        with (
            self.progress.track("serving") as tracker,
            deploy(
                config,
                sources,
                tracker,
                store=self.store,
                name=self.recipe.name,
                reason=reason,
                state=state,
                detached=detached,
                take_over=take_over,
            ) as deployment,
        ):
            yield deployment


def served_models(recipe: Recipe, store: Store, made: Mapping[str, Artifact]) -> dict[str, VariantSource]:
    """Variant name -> its model, from ``@stage``, a folder or an artifact's id.

    Raises:
        UserError: there is no such thing, or vLLM does not serve it.
    """
    from serving.engines.resolve import find_source

    return {
        variant.name: find_source(store, variant.model, made, f"serving.variants: {variant.name}")
        for variant in recipe.serving.variants
    }


@dataclass(frozen=True)
class RunOptions:
    """What the command line adds to a recipe.

    Attributes:
        until: the last section to run.
        only: the one section to run.
        force: sections to make anew although published.
    """

    until: str | None = None
    only: str | None = None
    force: frozenset[str] = frozenset()


def run_recipe(recipe: Recipe, progress: Progress, options: RunOptions = RunOptions()) -> RunRecord:
    """Run a recipe's stages, then serve and exercise its variants, and publish the run's record and page.

    Raises:
        RaymillError: a stage failed; everything published before it stays and is reused by the next run.
    """
    nodes = build_graph(recipe)
    chosen, will_serve = asked_for(recipe, nodes, options.until, options.only, options.force)
    if will_serve:
        require_port(recipe)
        require_models(recipe)
        require_servable(recipe, open_store(recipe.store))
    began = time.monotonic()
    record = new_run(recipe.name)
    pages: list[tuple[str, str]] = []
    guard = guard_of(os.environ, open_store(recipe.store))
    with Lifecycle.open(recipe, progress, guard) as lifecycle:
        found = identities(nodes)
        if options.only:
            _load_inputs(lifecycle, nodes, found, options.only)
        forced = {node.name for node in chosen if options.force & {node.name, node.section}}
        for node in chosen:
            lifecycle.check(node, found[node.name], force=node.name in forced)
        for node in chosen:
            record.stages.append(lifecycle.make(node, found[node.name], force=node.name in forced))
        if will_serve:
            line, page = _serve_once(lifecycle, record)
            record.stages.append(line)
            pages.append(("serving.html", page))
        record.targets = _check_objective(recipe, lifecycle.made)
        record.seconds = round(time.monotonic() - began, 1)
        guard()
        publish_run(lifecycle.store, record, pages)
    return record


def require_port(recipe: Recipe) -> None:
    """Raise UserError where the endpoint could not listen; asked before hours of work, not after them."""
    require_free(recipe.serving.host, recipe.serving.port)


def require_models(recipe: Recipe) -> None:
    """Raise UserError where a variant names a folder or an artifact that is not there."""
    for variant in recipe.serving.variants:
        if variant.model.startswith("@") or Path(variant.model).is_dir():
            continue
        if variant.model.startswith((".", "/", "~")):
            raise UserError(
                "no such folder", where=f"serving.variants {variant.name}: {variant.model}", next_step="check the path"
            )
        find_artifact(open_store(recipe.store), variant.model)


def exercise(lifecycle: Lifecycle, deployment: Deployment) -> TrafficReport:
    """Send the deployment real requests and say what came of them."""
    from serving.exercise.report import lines
    from serving.exercise.run import run_exercise

    with lifecycle.progress.track("serving") as tracker:
        report = run_exercise(deployment, tracker)
    lifecycle.progress.say("\n".join(["", *lines(report), ""]))
    return report


def stay(deployment: Deployment, end_seconds: float) -> None:
    """Return when somebody has written that the deployment is to go; a store that fails for a while ends nothing.

    Args:
        end_seconds: for engines and Ray to end, after the answers in flight had their time.
    """
    while True:
        interrupt.allow(deployment.drain_seconds + end_seconds)
        time.sleep(POLL_SECONDS)
        try:
            if deployment.stopped:
                return
        except (RaymillError, OSError):
            continue


def _serve_once(lifecycle: Lifecycle, record: RunRecord) -> tuple[StageLine, str]:
    """Deploy, exercise and shut down; the run table's line and the report's HTML."""
    from serving.exercise.report import render

    began = time.monotonic()
    with lifecycle.exercised() as deployment:
        report = exercise(lifecycle, deployment)
    record.serving = report.checks()
    seconds = round(time.monotonic() - began, 1)
    line = StageLine("serving", "ran", seconds, _headline(report), report="serving.html", metrics=report.metrics())
    return line, render(report)


def _headline(report: TrafficReport) -> str:
    split = " / ".join(f"{each.variant} {each.request_share:.0%}" for each in report.splits("before"))
    requests = f"{len(report.calls)} requests, {len(report.failures)} failed"
    return f"{requests}; {split}; {report.moved_users} users moved by the change of weights"


def _load_inputs(lifecycle: Lifecycle, nodes: list[Node], found: Mapping[str, Identity], only: str) -> None:
    """With ``--only``, everything else must be published already."""
    for node in nodes:
        if node.section == only:
            continue
        artifact = load_artifact(lifecycle.store, found[node.name].id)
        if artifact is not None:
            lifecycle.made[node.name] = artifact
    made_now = {node.name for node in nodes if node.section == only}
    needed = {name for node in nodes if node.section == only for name in node.inputs.values()} - made_now
    if only == "serving":
        needed = {v.model[1:] for v in lifecycle.recipe.serving.variants if v.model.startswith("@")}
    missing = sorted(needed - lifecycle.made.keys())
    if missing:
        raise UserError(
            f"its input is not published: {', '.join(missing)}",
            where=f"--only {only}",
            next_step=f"run without --only, or with --until {missing[-1]} first",
        )


def _check_objective(recipe: Recipe, made: Mapping[str, Artifact]) -> list[TargetResult]:
    """The targets against the evaluation of the last model the recipe makes, or against the stage that they name.

    ``finetune.validation.accuracy`` is a metric of the artifact that ``finetune`` made. A target on an evaluation is
    left out where none was made.
    """
    reports = [made[name] for name in ("evals-align", "evals-finetune", "evals-pretrain") if name in made]
    results = []
    for target in recipe.objective.parsed():
        stage, _, metric = target.metric.partition(".")
        if stage in made:
            measured = made[stage].metrics
            results.append(target.check({target.metric: measured[metric]} if metric in measured else {}))
            continue
        if not reports:
            continue
        report = reports[0]
        on_questions = metric_label(report, target.metric) != target.metric
        measured_on = str(report.details["benchmarks"]) if on_questions else ""
        results.append(replace(target.check(report.metrics), measured_on=measured_on))
    return results


def summary(record: RunRecord) -> str:
    """A run as text: the table of stages, the objective, and where the page is."""
    rows = [
        {"stage": line.stage, "state": line.state, "time": duration(line.seconds), "result": line.result}
        for line in record.stages
    ]
    parts = [table(rows)]
    if record.targets:
        met = all(result.met for result in record.targets)
        parts += ["", f"objective: {'met' if met else 'NOT met'}", table(target_rows(record.targets))]
    parts += ["", f"{duration(record.seconds)} in all; everything about it: {record.index}"]
    return "\n".join(parts)
