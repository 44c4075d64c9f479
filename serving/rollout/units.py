"""From requests to units: what a step of a rollout counts.

A unit is a user, once in a step: all requests within a window after the first, taken together. Users, unlike their
requests, are independent of each other, and each counts for the variant it was assigned to, whoever answered
(intention to treat). Memory is bounded: beyond its limits, what comes is left out and counted.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serving.gateway.observation import Feedback, Observation
from serving.rollout.config import RolloutConfig

Side = Literal["baseline", "candidate"]
SIDES: tuple[Side, Side] = ("baseline", "candidate")
SETTLE_SECONDS = 30.0
"""Longest wait, after a window, for answers and feedback that are still under way; a shorter window waits its own."""
MAX_OPEN = 200_000
MAX_SEEN = 500_000
MAX_LATENCIES = 32
MAX_ORPHANS = 10_000
MAX_CLOSED_AT_ONCE = 20_000
_LEAST_SECONDS = 1e-6


@dataclass(frozen=True)
class Unit:
    """A closed unit, as it is recorded.

    Attributes:
        key: its name, hashed to 16 hex digits.
        fresh: whether its assignment was not counted in this step before (a user's second request under
            ``unit: request`` is not).
        first: mean natural log of its first-token seconds; None where none was measured.
        token: likewise of its seconds for each token.
        latencies: seconds to the end, at most MAX_LATENCIES of them.
        gave_up: of requests, how many the caller left before an answer began, or when one had stalled.
        waited: seconds that those had waited, lower bounds of latencies; with them at most MAX_LATENCIES.
        metrics: reported metric -> mean of the values that came in time.
    """

    side: Side
    key: str
    requests: int = 1
    errors: int = 0
    retried: int = 0
    fallback: int = 0
    fresh: bool = True
    first: float | None = None
    token: float | None = None
    latencies: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    gave_up: int = 0
    waited: tuple[float, ...] = ()

    @property
    def error_fraction(self) -> float:
        """Failed requests over all, 0 … 1."""
        return self.errors / self.requests

    @property
    def gave_up_fraction(self) -> float:
        """Requests whose callers left before an answer began, or when one had stalled, over all, 0 … 1."""
        return self.gave_up / self.requests

    def encode(self) -> list[Any]:
        """As a short list of plain JSON values."""
        flags = int(self.side == "candidate") + 2 * int(self.fresh)
        counts = [self.requests, self.errors, self.retried, self.fallback]
        times = [self.first, self.token, list(self.latencies)]
        silence = [self.gave_up, list(self.waited)] if self.gave_up else []
        return [flags, self.key, *counts, *times, dict(self.metrics), *silence]

    @classmethod
    def decode(cls, values: list[Any]) -> Unit:
        """What :meth:`encode` gave."""
        flags, key, requests, errors, retried, fallback, first, token, latencies, metrics, *silence = values
        return cls(
            side="candidate" if flags & 1 else "baseline",
            key=key,
            requests=requests,
            errors=errors,
            retried=retried,
            fallback=fallback,
            fresh=bool(flags & 2),
            first=first,
            token=token,
            latencies=tuple(latencies),
            metrics=metrics,
            gave_up=silence[0] if silence else 0,
            waited=tuple(silence[1]) if silence else (),
        )


def recorded_key(values: list[Any]) -> str:
    """The key of a unit that :meth:`Unit.encode` gave."""
    return str(values[1])


@dataclass
class _Open:
    """A unit while its window lasts."""

    side: Side
    began: float
    user: str
    keyed: bool
    requests: int = 0
    errors: int = 0
    retried: int = 0
    fallback: int = 0
    firsts: list[float] = field(default_factory=lambda: [0, 0.0])
    tokens: list[float] = field(default_factory=lambda: [0, 0.0])
    latencies: list[float] = field(default_factory=list)
    gave_up: int = 0
    waited: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seen: Observation) -> None:
        self.requests += 1
        self.errors += seen.error
        self.retried += seen.retried
        self.fallback += seen.fallback
        self.gave_up += seen.gave_up
        _accumulate(self.firsts, _log(seen.first_token_s))
        _accumulate(self.tokens, _log(seen.token_s))
        if seen.latency_s is None or len(self.latencies) + len(self.waited) >= MAX_LATENCIES:
            return
        if seen.gave_up:
            self.waited.append(_short(max(seen.latency_s, _LEAST_SECONDS)))
        elif not seen.error:
            self.latencies.append(_short(max(seen.latency_s, _LEAST_SECONDS)))

    def close(self, fresh: bool) -> Unit:
        return Unit(
            self.side,
            self.user,
            self.requests,
            self.errors,
            self.retried,
            self.fallback,
            fresh,
            _mean(self.firsts),
            _mean(self.tokens),
            tuple(self.latencies),
            {name: mean for name, sums in sorted(self.metrics.items()) if (mean := _mean(sums)) is not None},
            self.gave_up,
            tuple(self.waited),
        )


def _log(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else math.log(max(seconds, _LEAST_SECONDS))


def _accumulate(sums: list[float], value: float | None) -> None:
    if value is not None:
        sums[0] += 1
        sums[1] += value


def _mean(sums: list[float]) -> float | None:
    return _short(sums[1] / sums[0]) if sums[0] else None


def _short(value: float) -> float:
    """Six digits: what is folded is exactly what is recorded."""
    return float(f"{value:.6g}")


def short_key(name: str) -> str:
    """A unit's name in a fixed, small size."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Collector:
    """Units of the step that runs.

    Args:
        config: the rollout's.
    """

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.variants: dict[str, Side] = {config.baseline: "baseline", config.candidate: "candidate"}
        self.settle = min(SETTLE_SECONDS, config.window_seconds)
        self.bounds = {each.metric: each.bounded for each in config.guardrails if each.reported}
        self.by_user = config.unit == "user"
        self.excluded: Counter[str] = Counter()
        self.begin(None)

    def begin(self, version: int | None) -> None:
        """A new experiment, of requests assigned at this version or a later one; None: nothing is observed."""
        self.version = version
        self._open: dict[str, _Open] = {}
        self._users: dict[str, str] = {}
        self._requests: dict[str, str] = {}
        self._seen: set[str] = set()
        self._orphans: list[Feedback] = []
        self._serial = 0

    def known(self, keys: Iterable[str]) -> None:
        """Keys of units that were closed before a restart: they do not count again."""
        self._seen.update(keys)

    @property
    def open(self) -> int:
        """Units whose window lasts."""
        return len(self._open)

    def observe(self, observations: Iterable[Observation]) -> None:
        """Take requests; those that do not count are left out and counted by reason and side."""
        for seen in observations:
            side = self.variants.get(seen.variant)
            if self.version is None or side is None:
                continue  # another variant's, or between two steps
            reason = self._place(seen, side)
            if reason:
                self.excluded[f"{side}.{reason}"] += 1

    def _place(self, seen: Observation, side: Side) -> str:
        """Add a request to its unit; why not, where it is left out."""
        if seen.version < (self.version or 0):
            return "earlier_step"
        if self.by_user and not seen.keyed:
            return "without_user"
        user = short_key(seen.unit)
        if not self.by_user:
            return self._open_request(seen, side, user)
        unit = self._open.get(user)
        if unit is None:
            if user in self._seen:
                return "counted_before"
            if len(self._open) >= MAX_OPEN or len(self._seen) >= MAX_SEEN:
                return "beyond_capacity"
            unit = self._open[user] = _Open(side, seen.at, user, seen.keyed)
            self._seen.add(user)
        if unit.side != side:
            return "changed_side"
        if seen.at > unit.began + self.config.window_seconds:
            return "after_window"
        unit.began = min(unit.began, seen.at)
        unit.add(seen)
        self._remember(seen.request, user)
        return ""

    def _open_request(self, seen: Observation, side: Side, user: str) -> str:
        if len(self._open) >= MAX_OPEN:
            return "beyond_capacity"
        self._serial += 1
        name = f"{user}/{self._serial}"
        unit = self._open[name] = _Open(side, seen.at, user, seen.keyed)
        unit.add(seen)
        self._users[user] = name
        self._remember(seen.request, name)
        return ""

    def _remember(self, request: str, name: str) -> None:
        """Where feedback on a request belongs; the oldest are forgotten first."""
        if self.bounds and request:
            self._requests[request] = name
            if len(self._requests) > MAX_OPEN:
                self._requests.pop(next(iter(self._requests)))

    def report(self, feedback: Iterable[Feedback]) -> None:
        """Take reported values of the metrics that have a guardrail; what matches no request yet waits a little."""
        if self.version is None:
            return
        for value in feedback:
            if value.metric in self.bounds and not self._credit(value):
                if len(self._orphans) < MAX_ORPHANS:
                    self._orphans.append(value)
                else:
                    self.excluded["feedback.beyond_capacity"] += 1

    def _credit(self, value: Feedback) -> bool:
        """Whether the value is dealt with."""
        if value.request:
            name = self._requests.get(value.request)
        else:
            user = short_key(value.unit)
            name = user if self.by_user else self._users.get(user)
        unit = self._open.get(name) if name is not None else None
        if unit is None:
            return False
        bounded = self.bounds[value.metric]
        if not math.isfinite(value.value) or (bounded and not 0 <= value.value <= 1):
            self.excluded[f"{unit.side}.feedback_out_of_range"] += 1
        elif not unit.began <= value.at <= unit.began + self.config.window_seconds:
            self.excluded[f"{unit.side}.feedback_after_window"] += 1
        else:
            _accumulate(unit.metrics.setdefault(value.metric, [0, 0.0]), value.value)
        return True

    def close(self, now: float) -> list[Unit]:
        """The units whose window is over, in the order they began; at most MAX_CLOSED_AT_ONCE."""
        waiting, self._orphans = self._orphans, []
        for value in waiting:
            if not self._credit(value):
                if now < value.at + self.settle:
                    self._orphans.append(value)
                else:
                    self.excluded["feedback.no_such_request"] += 1
        # fast failures must not be counted before slow answers of the same moment, nor one side before the other
        wait = self.settle + (self.config.window_seconds if self.by_user or self.bounds else 0.0)
        ready = []
        for name, unit in self._open.items():
            if now >= unit.began + wait:
                ready.append(name)
                if len(ready) == MAX_CLOSED_AT_ONCE:
                    break
        ready.sort(key=lambda name: (self._open[name].began, name))
        return [self._close(name) for name in ready]

    def _close(self, name: str) -> Unit:
        unit = self._open.pop(name)
        if self.by_user:
            return unit.close(fresh=True)
        if self._users.get(unit.user) == name:
            del self._users[unit.user]
        if not unit.keyed:
            return unit.close(fresh=True)
        fresh = unit.user not in self._seen and len(self._seen) < MAX_SEEN
        if fresh:
            self._seen.add(unit.user)
        return unit.close(fresh)

    def take_excluded(self) -> dict[str, int]:
        """What was left out since the last call: ``side.reason`` -> requests."""
        counts = dict(sorted(self.excluded.items()))
        self.excluded.clear()
        return counts
