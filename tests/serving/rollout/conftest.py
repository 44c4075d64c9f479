"""A deployment in simulated time: users who arrive and ask, a journal, and the rollout between them. No sleeping."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster.store import Store, StoredFile
from serving.config import EngineConfig
from serving.control.changes import moved_by_rollout
from serving.control.journal import Journal
from serving.control.state import EngineState, ModelSource, RolloutState, ServingState, VariantState
from serving.gateway.observation import Feedback, Observation
from serving.rollout.config import RolloutConfig
from serving.rollout.run import RolloutRun
from serving.split.assignment import Allocation

START = 1_800_000_000.0


class MemoryStore(Store):
    """A store in a dictionary, so that hundreds of rollouts take no disk."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes = 0
        self.broken = False

    def read(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def write(self, key: str, data: bytes) -> None:
        if self.broken:
            raise OSError("the store is away")
        self.writes += 1
        self.objects[key] = data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self.broken:
            raise OSError("the store is away")
        if key in self.objects:
            return False
        self.write(key, data)
        return True

    def put_if_match(self, key: str, data: bytes, expected: bytes) -> bool:
        if self.objects.get(key) != expected:
            return False
        self.write(key, data)
        return True

    def files(self, prefix: str = "") -> Iterator[StoredFile]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield StoredFile(key, len(self.objects[key]), 0.0)

    def folders(self, prefix: str = "") -> list[str]:
        start = f"{prefix}/" if prefix else ""
        rest = [key[len(start) :] for key in self.objects if key.startswith(start)]
        return sorted({each.partition("/")[0] for each in rest if "/" in each})

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def upload(self, source: Path, key: str) -> None:
        self.write(key, source.read_bytes())

    def download(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.read(key))

    def local_path(self, key: str) -> Path | None:
        return None

    def arrow(self, key: str) -> Any:
        raise NotImplementedError

    def stream(self, key: str) -> Iterator[bytes]:
        yield self.read(key)


@dataclass
class Arm:
    """How a variant behaves in the simulation."""

    errors: float = 0.01
    first_token_s: float = 0.2
    token_s: float = 0.02
    latency_s: float = 1.0
    spread: float = 0.4
    lost: float = 0.0
    retried: float = 0.0
    fallback: float = 0.0
    liked: float | None = None
    streams: bool = True
    hangs: float = 0.0
    patience_s: float = 5.0


@dataclass
class World:
    """A deployment with simulated users; ``run`` is what the controller holds."""

    config: RolloutConfig
    arms: dict[str, Arm]
    users_per_second: float = 5.0
    requests: int = 2
    seed: int = 0
    population: int = 0
    without_key: float = 0.0
    store: MemoryStore = field(default_factory=MemoryStore)
    name: str = "chat"
    tick_s: float = 1.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = START
        self.users = 0
        self.serial = 0
        self._decoded: tuple[ServingState, Allocation] | None = None
        self.journal = Journal(self.store, self.name)
        self.journal.create(make_state(self.config))
        self.change(lambda state: with_rollout(state, self.config), by="tester", reason="begin")
        self.run = self.open()
        self.late: list[tuple[float, Observation]] = []
        self.ready: set[str] | None = None

    @property
    def state(self) -> ServingState:
        return self.journal.current()

    @property
    def status(self) -> str:
        assert self.state.rollout is not None
        return self.state.rollout.status

    @property
    def share(self) -> float:
        weights = self.state.weights
        total = weights[self.config.baseline] + weights[self.config.candidate]
        return 100 * weights[self.config.candidate] / total

    @property
    def kinds(self) -> list[str]:
        return [decision.what for decision in self.run.machine.decisions]

    def open(self) -> RolloutRun:
        return RolloutRun.open(self.store, self.name, self.state)

    def crash(self) -> None:
        """The controller dies; the next one has only the store."""
        self.journal = Journal(self.store, self.name)
        self.run = self.open()

    def change(self, mutate: Callable[[ServingState], ServingState], *, by: str, reason: str) -> ServingState:
        return self.journal.change(mutate, by=by, reason=reason, now=self.now)

    def traffic(self) -> tuple[list[Observation], list[Feedback]]:
        """The requests that end in this tick."""
        draw, state = self.random, self.state
        allocation = self.allocation(state)
        seen: list[Observation] = []
        feedback: list[Feedback] = []
        mean = self.users_per_second * self.tick_s
        arrivals = int(mean) + (draw.random() < mean % 1)
        for _ in range(arrivals):
            self.users += 1
            key = f"user-{draw.randrange(self.population) if self.population else self.users}"
            keyed = draw.random() >= self.without_key
            variant = (
                allocation.owners[draw.randrange(10_000)]
                if not keyed
                else (allocation.assign(state.experiment, key).variant)
            )
            arm = self.arms.get(variant)
            if arm is None or draw.random() < arm.lost:
                continue
            for _ in range(1 + draw.randrange(self.requests)):
                self.serial += 1
                seen.append(self.request(arm, variant, key if keyed else f"one-{self.serial}", keyed, state.version))
                while arm.hangs and draw.random() < arm.hangs:  # the client gives up and asks again
                    seen.append(self.left(seen[-1], arm))
                    seen[-1], seen[-2] = seen[-2], seen[-1]
                if arm.liked is not None:
                    liked = float(draw.random() < arm.liked)
                    feedback.append(Feedback("liked", liked, self.now, request=seen[-1].request))
        return seen, feedback

    def allocation(self, state: ServingState) -> Allocation:
        """Decoded once for each set of owners."""
        if self._decoded is None or self._decoded[0] is not state:
            self._decoded = (state, state.allocation())
        return self._decoded[1]

    def request(self, arm: Arm, variant: str, unit: str, keyed: bool, version: int) -> Observation:
        draw = self.random
        fallback = draw.random() < arm.fallback
        error = fallback or draw.random() < arm.errors
        factor = draw.lognormvariate(0, arm.spread)
        seen = Observation(
            unit=unit,
            keyed=keyed,
            variant=variant,
            version=version,
            at=self.now - draw.random() * self.tick_s / 2,
            error=error,
            first_token_s=arm.first_token_s * factor,
            token_s=arm.token_s * factor,
            latency_s=arm.latency_s * factor,
            retried=draw.random() < arm.retried,
            fallback=fallback,
            request=f"r-{self.serial}",
        )
        if not arm.streams:
            seen = replace(seen, first_token_s=None, token_s=None)
        return replace(seen, first_token_s=None, token_s=None, latency_s=None) if error else seen

    def left(self, seen: Observation, arm: Arm) -> Observation:
        """A try before this request, which its caller gave up."""
        self.serial += 1
        return replace(
            seen,
            error=arm.patience_s >= 10,
            first_token_s=arm.patience_s if arm.streams else None,
            token_s=None,
            latency_s=arm.patience_s,
            fallback=False,
            request=f"r-{self.serial}",
            gave_up=True,
        )

    def tick(self, traffic: bool = True) -> None:
        """One turn of the controller's loop."""
        self.now += self.tick_s
        if traffic:
            self.run.observe(*self.traffic())
        action = self.run.tick(self.now, self.state, self.ready)
        if action is not None:
            rollout = self.config and self.state.rollout
            assert rollout is not None
            self.change(
                lambda state: moved_by_rollout(state, rollout.id, action.weights, action.status),
                by=f"rollout {rollout.id}",
                reason=action.reason,
            )

    def until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Tick until a condition holds; whether it did in time."""
        end = self.now + seconds
        while self.now < end:
            self.tick()
            if done():
                return True
        return False

    def to_the_end(self, seconds: float = 20_000) -> str:
        """Tick until the rollout is over and recorded; its status."""
        self.until(lambda: self.run.done, seconds)
        return self.status


def make_state(config: RolloutConfig, weights: dict[str, float] | None = None) -> ServingState:
    """A deployment of the pair on two engines, all users on the baseline."""
    names = [config.baseline, config.candidate]
    given = weights or {config.baseline: 100.0, config.candidate: 0.0}
    same = config.mode == "aa"
    return ServingState(
        version=1,
        changed_at=START,
        changed_by="tester",
        reason="begin",
        model_name="chat",
        experiment="chat",
        engines={
            name: EngineState(
                name=name,
                source=ModelSource(artifact=f"Model/{'one' if same else name}-0123456789ab"),
                config=EngineConfig(),
            )
            for name in names
        },
        variants={name: VariantState(name=name, engine=name, engine_model=name) for name in names},
        weights=given,
        owners=Allocation.first(given).encode(),
    )


def with_rollout(state: ServingState, config: RolloutConfig) -> ServingState:
    rollout = RolloutState(id=f"{config.candidate}-{state.version + 1}", config=config, before=dict(state.weights))
    return state.model_copy(update={"rollout": rollout})


def make_config(**changes: Any) -> RolloutConfig:
    """A rollout that is quick in simulated time."""
    quick: dict[str, Any] = {
        "candidate": "tuned",
        "baseline": "base",
        "steps": (10, 50, 100),
        "minimum_seconds": 60,
        "minimum_units": 50,
        "maximum_seconds": 7200,
        "bake_seconds": 60,
        "window_seconds": 10,
        "gate": "none",
        "guardrails": (
            {"metric": "error_rate", "margin": 0.05},
            {"metric": "first_token_seconds", "margin": 0.3},
        ),
    }
    return RolloutConfig.model_validate(quick | changes)


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """Makes a world: settings of the rollout in ``rollout``, the arms' behaviour in ``base`` and ``tuned``."""

    def make(
        rollout: dict[str, Any] | None = None, base: Arm | None = None, tuned: Arm | None = None, **others: Any
    ) -> World:
        config = make_config(**(rollout or {}))
        return World(config, {"base": base or Arm(), "tuned": tuned or Arm()}, **others)

    return make


@pytest.fixture(scope="session")
def arm() -> type[Arm]:
    return Arm


@pytest.fixture(scope="session")
def rollout_config() -> Callable[..., RolloutConfig]:
    return make_config


@pytest.fixture(scope="session")
def serving_state() -> Callable[..., ServingState]:
    return make_state
