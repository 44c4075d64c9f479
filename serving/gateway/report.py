"""What a gateway says about itself: to the controller, to Prometheus, to load balancers and to people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from serving.access.rate import UsageLimiter
from serving.gateway.engines import Engines
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.observation import GatewayReport
from serving.gateway.observe import Observations
from serving.gateway.table import RouteTable
from serving.gateway.waiting import Places
from serving.gateway.wire import Unavailable

STARTING = "the endpoint is starting"


class Reporting:
    """Reads a gateway's parts; they belong to :class:`serving.gateway.app.Gateway`."""

    def __init__(self, name: str, engines: Engines, places: Places, limiter: UsageLimiter) -> None:
        self.name = name
        self.table: RouteTable | None = None
        self.shares: dict[str, float] = {}
        self.requests: Counter[str] = Counter()
        self.draining = False
        self._engines, self._places, self._limiter = engines, places, limiter

    def take_table(self, table: RouteTable) -> None:
        """A newer table is in force."""
        self.shares = table.allocation.shares()
        self.table = table

    def report(self, observations: Observations, port: int) -> GatewayReport:
        """For the controller; takes the observations away."""
        seen, told = observations.take()
        table = self.table
        return GatewayReport(
            gateway=self.name,
            serial=table.serial if table else -1,
            version=table.version if table else -1,
            port=port,
            ongoing=dict(self._engines.pool.ongoing),
            waiting=dict(self._places.waiting),
            requests=dict(self.requests),
            use=self._limiter.use(),
            observations=seen,
            feedback=told,
            dropped=observations.dropped,
        )

    def lacking(self) -> list[str]:
        """Variants that have users and no engine in rotation, and do not sleep."""
        table = self.table
        if table is None:
            return []
        return [
            name
            for name in self.shares
            if not self._engines.pool.has(name) and not (name in table.variants and table.variants[name].asleep)
        ]

    def readiness(self) -> dict[str, Any]:
        """What ``/ready`` answers.

        Raises:
            Unavailable: some users would get no answer, or the gateway is going.
        """
        if self.draining:
            raise Unavailable("this gateway is stopping")
        if self.table is None:
            raise Unavailable(STARTING)
        lacking = self.lacking()
        others = self.table.fallback and any(self._engines.pool.has(name) for name in self.table.variants)
        if lacking and not others:
            raise Unavailable(f"no engine is ready for: {', '.join(lacking)}")
        return {"status": "ready", "version": self.table.version, "lacking": lacking}

    def split(self) -> dict[str, Any]:
        """The split in force."""
        table = self.table
        if table is None:
            raise Unavailable(STARTING)
        return {
            "version": table.version,
            "experiment": table.experiment,
            "shares": {name: self.shares.get(name, 0.0) for name in table.variants},
        }

    def status(self) -> dict[str, Any]:
        """For people."""
        pool, table = self._engines.pool, self.table
        return {
            "name": self.name,
            "serial": table.serial if table else -1,
            "version": table.version if table else -1,
            "model": table.model if table else "",
            "draining": self.draining,
            "ongoing": self._places.ongoing,
            "waiting": dict(self._places.waiting),
            "variants": {
                name: {
                    "share": self.shares.get(name, 0.0),
                    "asleep": route.asleep,
                    "engines": [
                        {
                            "address": address,
                            "in_rotation": address not in pool.ejected,
                            "ongoing": pool.ongoing.get(address, 0),
                        }
                        for address in route.addresses
                    ],
                }
                for name, route in (table.variants.items() if table else ())
            },
        }

    def connect(self, metrics: GatewayMetrics) -> None:
        """Let the metrics page read what is known here."""
        metrics.ongoing.read = lambda: {(): float(self._places.ongoing)}
        metrics.queued.read = lambda: {(name,): float(count) for name, count in self._places.waiting.items()}
        metrics.shares.read = lambda: {(name,): share for name, share in self.shares.items()}
        metrics.version.read = lambda: {(): float(self.table.version if self.table else -1)}
        metrics.engines.read = self._engine_counts
        metrics.limits.read = self._limits

    def _engine_counts(self) -> dict[tuple[str, ...], float]:
        counts: dict[tuple[str, ...], float] = {}
        for name, addresses in self._engines.pool.addresses.items():
            out = sum(address in self._engines.pool.ejected for address in addresses)
            counts[name, "in_rotation"], counts[name, "out_of_rotation"] = float(len(addresses) - out), float(out)
        return counts

    def _limits(self) -> dict[tuple[str, ...], float]:
        limits: Mapping[str, Any] = self.table.limits.model_dump() if self.table else {}
        return {(name,): float(number) for name, number in limits.items() if number is not None}
