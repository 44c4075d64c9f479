"""Bring up an endpoint on a running Ray, and take it down without a process left."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError, RaymillError, UserError
from serving.config import ServingConfig
from serving.control import operations, ray_serve, takedown
from serving.control.journal import Journal
from serving.control.leftovers import ProcessLedger
from serving.control.names import who
from serving.control.ports import require_free
from serving.control.readiness import wait_until_ready
from serving.control.recipe_rollout import RecipeRollout
from serving.control.records import served_elsewhere
from serving.control.redeploy import first_state, intend
from serving.control.settings import NAMESPACE, Settings, controller_name, require_same_address
from serving.control.state import ServingState
from serving.control.takedown import remove
from serving.split.assignment import bucket_of

if TYPE_CHECKING:
    from cluster.progress import Tracker
    from cluster.store import Store
    from serving.control.controller import Snapshot
    from serving.engines.plan import VariantSource

__all__ = ["Deployment", "ServedReplica", "ServedVariant", "deploy", "remove"]

POLL_INTERVAL_S, ATTEND_S = 0.1, 5.0
MOVE_S = 10.0
"""A change is on every gateway within 2 s; one that was just killed is back within this."""


@dataclass(frozen=True)
class ServedReplica:
    """One engine that answers: its process, when it started (seconds since the epoch), where, and its log."""

    pid: int
    started: float
    address: str
    node: str
    log: str


@dataclass(frozen=True)
class ServedVariant:
    """A variant as it is served now."""

    name: str
    weight: float
    model: str
    engine: str
    replicas: tuple[ServedReplica, ...]


def deploy(
    config: ServingConfig,
    sources: Mapping[str, VariantSource],
    tracker: Tracker,
    *,
    store: Store,
    name: str = "raymill",
    by: str | None = None,
    reason: str = "",
    state: Store | None = None,
    logs: Path | None = None,
    commands: Mapping[str, list[str]] | None = None,
    detached: bool = False,
    take_over: bool = False,
) -> Deployment:
    """Serve the variants behind one OpenAI URL; returns when every engine has answered a first request.

    Ray must be initialised. What was deployed under this name before goes on from its last state, with the weights,
    keys and limits that it had; see :func:`serving.control.redeploy.intend`. Where it is up already (detached), it
    becomes what the recipe says now. Whatever goes wrong with a new one, also an interrupt, nothing is left running.

    Args:
        sources: variant -> its model, for every variant of the configuration.
        store: where models are.
        name: the deployment's name; also the public model name and the experiment where the recipe gives none.
        by: who deploys, for the journal.
        reason: why, likewise.
        state: where the deployment's state is kept; by default the store too.
        logs: folder for the engines' output; otherwise a temporary one, removed when the shutdown was clean.
        commands: engine name -> another command line than vLLM's; for tests of everything but inference.
        detached: leave it running when this process ends.
        take_over: another cluster may serve it still; this one goes on with its state, and the other decides no more.

    Raises:
        UserError: a missing model, a port in use, a model that vLLM refuses (with vLLM's reason), or a rollout that
            could never begin. One that cannot begin yet is said, and the endpoint serves without it.
        InfraError: the engines were not ready in time.
    """
    deployment = Deployment(config, store, state or store, name, by or who(), logs, tracker, detached, take_over)
    fresh = first_state(config, sources, name=name, by=deployment._by, now=time.time(), reason=reason)
    rollout = RecipeRollout.of(config.rollout, store, deployment._journal.latest(), fresh)
    if deployment._join():
        deployment._wanted = intend(deployment._journal, fresh)
        deployment._wait_until_ready()
        deployment._start_rollout(rollout)
        return deployment
    deployment._require_alone()
    try:
        deployment._start(fresh, commands or {})
        deployment._start_rollout(rollout)
    except BaseException as error:
        if not (detached and deployment.url):  # what answers already, on a cluster, goes on without its rollout
            deployment._keep_logs = isinstance(error, RaymillError)
            deployment._give_up(error)
        raise
    return deployment


class Deployment:
    """A served endpoint. Use it as a context manager, or call :meth:`shutdown`.

    Attributes:
        url: what clients are given, with ``/v1``.
        model: the public model name.
    """

    def __init__(
        self,
        config: ServingConfig,
        store: Store,
        state: Store,
        name: str,
        by: str,
        logs: Path | None,
        tracker: Tracker,
        detached: bool,
        take_over: bool = False,
    ) -> None:
        self.config, self.name, self.url = config, name, ""
        self.model = config.model_name or name
        self.detached, self._take_over = detached, take_over
        self._store, self._state_store, self._by, self._tracker = store, state, by, tracker
        self._journal = Journal(state, name)
        self._wanted: ServingState | None = None
        self._own_logs = logs is None and not detached
        self._keep_logs = False
        self._logs = logs or Path(tempfile.mkdtemp(prefix="raymill-serving-"))
        self._controller: Any = None
        self._settings: Settings | None = None
        self._created = False
        self._processes = ProcessLedger()
        self._closed = False
        self._attending = threading.Event()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.detached:
            self.shutdown()

    def set_weights(self, weights: Mapping[str, float]) -> float:
        """Change the split while requests flow; every gateway has it when this returns.

        Returns:
            The share of users, 0 … 1, whose variant changed.

        Raises:
            UserError: a variant with users is not named, or the weights are not a split.
            InfraError: not every gateway has them after 10 s.
        """
        before = self._journal.current().allocation()
        after = operations.set_weights(self._journal, weights, by=self._by, reason="set from Python")
        self._wait_applied(after.version)
        moved = sum(a != b for a, b in zip(before.owners, after.allocation().owners, strict=True))
        return moved / len(before.owners)

    def variants_of(self, keys: list[str]) -> dict[str, str]:
        """User key -> the variant it gets now."""
        state = self._journal.current()
        owners = state.allocation().owners
        return {key: owners[bucket_of(state.experiment, key)] for key in keys}

    def status(self) -> list[ServedVariant]:
        """Every variant with its weight and the engines that answer for it now."""
        state, snapshot = self._journal.current(), self._snapshot()
        return [
            ServedVariant(
                name=variant.name,
                weight=state.weights[variant.name],
                model=str(variant.adapter or state.engines[variant.engine].source),
                engine=variant.engine,
                replicas=tuple(
                    ServedReplica(each.pid, each.started, each.address, each.node, each.log)
                    for each in snapshot.announcements
                    if each.engine == variant.engine
                ),
            )
            for variant in state.variants.values()
        ]

    @property
    def stopped(self) -> bool:
        """Whether somebody wrote that it is to go (`raymill undeploy`)."""
        self._wanted = self._journal.current()
        return self._wanted.stopped

    @property
    def drain_seconds(self) -> float:
        """The time for answers in flight, as far as is known here: it may have been changed since the start."""
        return (self.config if self._wanted is None else self._wanted).limits.drain_seconds

    def shutdown(self, drain_seconds: float | None = None) -> None:
        """Stop listening, let answers in flight finish, end every engine; returns when their processes are gone.

        Harmless to repeat.

        Args:
            drain_seconds: the time for answers; by default what is wanted now.
        """
        if self._closed:
            return
        self._closed = True
        self._attending.set()
        import ray

        if self._created and self._settings is not None and ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                self._snapshot()  # engines that were started again since
            with contextlib.suppress(RaymillError, OSError):
                self._wanted = self._journal.current()
            drain = self.drain_seconds if drain_seconds is None else drain_seconds
            takedown.take_down(self._settings, self._state_store, self._controller, drain)
        self._processes.end()
        if self._own_logs and not self._keep_logs:
            shutil.rmtree(self._logs, ignore_errors=True)

    def _join(self) -> bool:
        """Find the deployment where it is up already, which only a detached one can be."""
        import ray

        name = controller_name(self.name)
        with contextlib.suppress(ValueError):
            self._controller = ray.get_actor(name, namespace=NAMESPACE)
        if self._controller is not None and not self.detached:
            raise self._served_already("in this Ray")
        if self._controller is not None:
            require_same_address(ray_serve.get(self._controller.settings.remote()), self.config)
        return self._controller is not None

    def _require_alone(self) -> None:
        where = served_elsewhere(self._state_store, self.name, time.time())
        if where and not self._take_over:
            raise self._served_already(where)
        require_free(self.config.host, self.config.port)
        require_free("127.0.0.1", self.config.admin_port, key="admin_port")

    def _served_already(self, where: str) -> UserError:
        return UserError(
            f"{self.name} is served already, {where}",
            where=f"deployment {self.name}",
            next_step="`raymill undeploy` ends it; or give the recipe another `name`",
        )

    def _start(self, fresh: ServingState, commands: Mapping[str, list[str]]) -> None:
        self._wanted = intend(self._journal, fresh)
        self._start_controller(commands)
        if self._journal.current().recipe_sha256 != fresh.recipe_sha256:
            # Somebody else deploys at this moment: what they wrote holds only if they are the one, or join it.
            self._wanted = intend(self._journal, fresh)
        engines = len(self._wanted.engines)
        with self._tracker.step("start engines", total=engines, unit="engines"):
            self._wait_until_ready()
        self._tracker.note(f"{self.model} answers at {self.url}")

    def _start_controller(self, commands: Mapping[str, list[str]]) -> None:
        import ray
        from ray._common.constants import HEAD_NODE_RESOURCE_NAME
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from serving.control.controller import Controller

        config, here = self.config, ray.get_runtime_context().get_node_id()
        self._settings = settings = Settings(
            name=self.name,
            store_url=self._store.url,
            state_url=self._state_store.url,
            host=config.host,
            port=config.port,
            admin_port=config.admin_port,
            gateways=config.gateways,
            key=secrets.token_hex(32),
            device=ray_serve.device(config.engine),
            logs=str(self._logs),
            commands=dict(commands),
            attended=not self.detached,
            started_by=self._by,
            pid=0 if self.detached else os.getpid(),
            machine="" if self.detached else socket.gethostname(),
            started_serve=ray_serve.start_serve(),
            deployed_at=time.time(),
            takes_over=self._take_over,
        )
        options = {
            "name": settings.controller,
            "namespace": NAMESPACE,
            "lifetime": "detached",  # gateways and engines must outlive it as well; an owner that is gone is noticed
            "num_cpus": 0,
            "max_restarts": -1,
            "max_concurrency": 10_000,
        }
        if self.detached and not settings.loopback:
            # Where Ray's own control is: no other node's death takes the controller with it.
            options["resources"] = {HEAD_NODE_RESOURCE_NAME: 0.001}
        else:
            # The state of an exercise is in a folder of this node, and so is who may call on loopback.
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=self.detached)
        self._created = True  # before the call: an interrupt in it must leave nothing
        try:
            self._controller = ray.remote(Controller).options(**options).remote(settings)
        except ray.exceptions.ActorAlreadyExistsError:  # somebody else deploys it at this moment
            self._created = False
            if not self._join():
                raise
            return
        if not self.detached:
            threading.Thread(target=self._attend, daemon=True, name="attend").start()

    def _attend(self) -> None:
        import ray

        while not self._attending.wait(ATTEND_S):
            if ray.is_initialized():
                self._controller.attend.remote()

    def _snapshot(self) -> Snapshot:
        snapshot: Snapshot = ray_serve.get(self._controller.snapshot.remote())
        for each in snapshot.announcements:
            self._processes.add(each.node, each.pids)
        return snapshot

    def _wait_until_ready(self) -> None:
        assert self._wanted is not None
        ray_serve.get(self._controller.refresh.remote())
        expected = {name for name in self._wanted.variants if name in self.config.weights()}
        self.url = wait_until_ready(self._wanted, expected, self._snapshot, self._tracker, self._logs)

    def _wait_applied(self, version: int) -> None:
        deadline = time.monotonic() + MOVE_S
        while time.monotonic() < deadline:
            ray_serve.get(self._controller.refresh.remote())
            status = self._snapshot().status
            if status is not None and status.applied(version):
                return
            time.sleep(POLL_INTERVAL_S)
        raise InfraError(
            f"version {version} is written, but not on every gateway after {MOVE_S:.0f} s",
            where=f"deployment {self.name}",
            next_step="it takes effect by itself once all are back",
        )

    def _start_rollout(self, rollout: RecipeRollout | None) -> None:
        state = rollout.start(self._journal, self._by, self._tracker.note) if rollout is not None else None
        if state is not None:
            self._wait_applied(state.version)

    def _give_up(self, error: BaseException) -> None:
        """Nothing that began here is left running, and nobody waits for a deployment that never came up."""
        if not self._created:  # it is another's, or there is none
            self.shutdown()
            return
        with contextlib.suppress(RaymillError, OSError):
            if self._wanted is not None:
                reason = "it did not come up" if isinstance(error, Exception) else "interrupted"
                operations.stop(self._journal, by=self._by, reason=reason)
        self.shutdown(drain_seconds=0)
