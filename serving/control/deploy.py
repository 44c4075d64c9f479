"""Bring up an endpoint on a running Ray: gateway, controller, one Serve application an engine; and take it down."""

from __future__ import annotations

import contextlib
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError, RaymillError, UserError
from serving.config import ServingConfig, replica_bounds
from serving.control import ray_serve
from serving.control.leftovers import ProcessLedger
from serving.engines.spec import EngineSpec, ServedModel, plan_engines
from serving.gateway.table import RouteTable
from serving.split.assignment import Allocation

if TYPE_CHECKING:
    from cluster.progress import Tracker
    from serving.control.controller import Snapshot

POLL_INTERVAL_S, SCHEDULING_NOTE_S, HEALTH_PERIOD_S = 0.2, 15.0, 2.0


@dataclass(frozen=True)
class ReplicaStatus:
    """One engine that answers: its process, when it started (seconds since the epoch), where, and its log."""

    pid: int
    started: float
    address: str
    node: str
    log: str


@dataclass(frozen=True)
class VariantStatus:
    """A variant as it is served now."""

    name: str
    weight: float
    model: str
    engine: str
    replicas: tuple[ReplicaStatus, ...]


def deploy(
    config: ServingConfig,
    models: Mapping[str, ServedModel],
    tracker: Tracker,
    *,
    name: str = "raymill",
    logs: Path | None = None,
    commands: Mapping[str, list[str]] | None = None,
) -> Deployment:
    """Serve the variants behind one OpenAI URL; returns when every engine has answered a first request.

    Ray must be initialised. Whatever goes wrong, also an interrupt, nothing is left running.

    Args:
        models: variant -> its model's files, for every variant of the configuration.
        name: the deployment's name; also the public model name and the experiment where the recipe gives none.
        logs: folder for the engines' output; otherwise a temporary one, removed when the shutdown was clean.
        commands: engine name -> another command line than vLLM's; for tests of everything but inference.

    Raises:
        UserError: a missing model, a port in use, or a model that vLLM refuses (with vLLM's reason).
        InfraError: the engines were not ready in time.
    """
    missing = [variant.name for variant in config.variants if variant.name not in models]
    if missing:
        raise UserError(
            f"no model for variant {', '.join(missing)}", where="serving.variants", next_step="give each a model"
        )
    ordered = [models[variant.name] for variant in config.variants]
    specs = plan_engines(ordered, config.engine, ray_serve.device(config.engine))
    deployment = Deployment(config, models, specs, name, logs, tracker)
    try:
        deployment._start(commands or {})
    except BaseException as error:
        deployment._keep_logs = isinstance(error, RaymillError)
        deployment.shutdown()
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
        models: Mapping[str, ServedModel],
        specs: list[EngineSpec],
        name: str,
        logs: Path | None,
        tracker: Tracker,
    ) -> None:
        self.config, self.name, self.url = config, name, ""
        self.model = config.model_name or name
        self._models, self._specs, self._tracker = models, specs, tracker
        self._key = secrets.token_hex(32)
        self._own_logs = logs is None
        self._keep_logs = False
        self._logs = logs or Path(tempfile.mkdtemp(prefix="raymill-serving-"))
        self._gateways: list[Any] = []
        self._controller: Any = None
        self._applications: list[str] = []
        self._started_serve = False
        self._processes = ProcessLedger()
        self._closed = False

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def set_weights(self, weights: Mapping[str, float]) -> float:
        """Change the split while requests flow; every gateway has it when this returns.

        Returns:
            The share of users, 0 … 1, whose variant changed.

        Raises:
            UserError: the weights do not name every variant, or are not a split.
        """
        return float(ray_serve.get(self._controller.set_weights.remote(dict(weights))))

    def variants_of(self, keys: list[str]) -> dict[str, str]:
        """User key -> the variant it gets now."""
        return dict(zip(keys, ray_serve.get([self._controller.variant_of.remote(key) for key in keys]), strict=True))

    def status(self) -> list[VariantStatus]:
        """Every variant with its weight and the engines that answer for it now."""
        snapshot: Snapshot = ray_serve.get(self._controller.snapshot.remote())
        engine_of = {variant: spec.name for spec in self._specs for variant in spec.variants}
        return [
            VariantStatus(
                name=name,
                weight=weight,
                model=self._models[name].artifact or str(self._models[name].folder),
                engine=engine_of[name],
                replicas=tuple(
                    ReplicaStatus(each.pid, each.started, each.address, each.node, each.log)
                    for each in snapshot.engines
                    if each.engine == engine_of[name]
                ),
            )
            for name, weight in snapshot.weights.items()
        ]

    def shutdown(self) -> None:
        """Stop listening, then every engine; returns when their processes are gone. Harmless to repeat."""
        if self._closed:
            return
        self._closed = True
        import ray

        if ray.is_initialized():
            self._take_down()
        self._processes.end()
        if self._own_logs and not self._keep_logs:
            shutil.rmtree(self._logs, ignore_errors=True)

    def _start(self, commands: Mapping[str, list[str]]) -> None:
        gateway_node = self._open_gateway()
        self._start_controller()
        with self._tracker.step("start engines", total=len(self._specs), unit="engines"):
            self._run_applications(gateway_node, commands)
            self._wait_until_ready()
        self._tracker.note(f"{self.model} answers at {self.url}")

    def _open_gateway(self) -> str:
        """Listen first: a port in use must be known before engines start."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from serving.gateway.host import GatewayHost

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        gateway = ray.remote(GatewayHost).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here).remote()
        self._gateways.append(gateway)
        port, node = ray_serve.get(gateway.listen.remote(self.config.host, self.config.port))
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.config.host, self.config.host)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        return str(node)

    def _start_controller(self) -> None:
        import ray

        from serving.control.controller import Controller

        table = RouteTable(
            model=self.model,
            experiment=self.config.experiment or self.name,
            allocation=Allocation.first(self.config.weights()),
            variants={},
            key=self._key,
            serial=0,
            created=int(time.time()),
        )
        variants = {spec.name: spec.variants for spec in self._specs}
        actor = ray.remote(Controller).options(num_cpus=0, max_concurrency=1000)
        self._controller = actor.remote(table, self.config.weights(), variants)
        ray_serve.get([self._controller.add_gateway.remote(gateway) for gateway in self._gateways])

    def _run_applications(self, gateway_node: str, commands: Mapping[str, list[str]]) -> None:
        """One Serve application for each engine, without an HTTP route: Serve places and watches, no more."""
        from ray import serve

        from serving.engines.replica import EngineReplica

        self._started_serve = not ray_serve.serve_runs()
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "ERROR"})
        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # starting Serve has set it anew
        engine = self.config.engine
        targets = []
        for spec in self._specs:
            deployment = serve.deployment(EngineReplica).options(
                name="engine",
                num_replicas=replica_bounds(engine.replicas)[0],
                ray_actor_options={"num_cpus": engine.cpus, "num_gpus": ray_serve.gpus(engine, spec.device)},
                max_constructor_retry_count=1,  # a model that vLLM refuses once it refuses for ever
                health_check_period_s=HEALTH_PERIOD_S,
                health_check_timeout_s=10.0,
                graceful_shutdown_wait_loop_s=0.1,
                graceful_shutdown_timeout_s=10.0,
            )
            name = f"{self.name}-{spec.name}"
            bound = deployment.bind(
                spec, self._controller, self._key, (gateway_node,), str(self._logs), commands.get(spec.name)
            )
            targets.append(serve.RunTarget(target=bound, name=name, route_prefix=None))
            self._applications.append(name)
        serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def _wait_until_ready(self) -> None:
        engine, began, noted = self.config.engine, time.monotonic(), False
        limit = engine.startup_timeout_seconds + ray_serve.CALL_TIMEOUT_S
        while True:
            failure = ray_serve.given_up(self._applications)
            snapshot: Snapshot = ray_serve.get(self._controller.snapshot.remote())  # later: a reason beats "ended"
            if error := next(iter(snapshot.refusals.values()), failure):
                raise error
            for each in snapshot.engines:
                self._processes.add(each.node, each.pids)
            ready = [
                s
                for s in self._specs
                if sum(each.engine == s.name for each in snapshot.engines) >= replica_bounds(engine.replicas)[0]
            ]
            self._tracker.update(len(ready))
            # Serve replaces a replica that dies only once it has counted it as up.
            if ray_serve.running(self._applications) and len(ready) == len(self._specs):
                return
            waited = time.monotonic() - began
            if waited > limit:
                raise InfraError(
                    f"the engines were not ready within {limit:.0f} s",
                    where="serving",
                    next_step="`raymill doctor` says what the cluster has; see the logs in " + str(self._logs),
                    attempts=tuple(ray_serve.messages(self._applications)),
                )
            if waited > SCHEDULING_NOTE_S and not noted and not any(self._logs.glob("engine-*.log")):
                noted = True
                self._tracker.note("the engines wait for free CPUs: " + "; ".join(ray_serve.free_resources()))
            time.sleep(POLL_INTERVAL_S)

    def _take_down(self) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        gone = (ray.exceptions.RayError, RayServeException, TimeoutError, ConnectionError, ValueError)
        with contextlib.suppress(*gone):
            if self._controller is not None:
                for each in ray_serve.get(self._controller.snapshot.remote()).engines:  # also those restarted meanwhile
                    self._processes.add(each.node, each.pids)
        with contextlib.suppress(*gone):
            ray_serve.get([gateway.close.remote() for gateway in self._gateways])
        for name in self._applications:
            with contextlib.suppress(*gone):
                serve.delete(name)
        if self._started_serve:
            # Not serve.shutdown(): its last call dies with the controller, which Ray reports on standard error.
            with contextlib.suppress(*gone):
                ray.kill(ray_serve.serve_controller())
        for actor in filter(None, (*self._gateways, self._controller)):
            with contextlib.suppress(*gone):
                ray.kill(actor)
        self._gateways, self._controller = [], None
