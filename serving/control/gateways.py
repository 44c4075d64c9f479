"""The gateways of a deployment: there when they should be, told of changes, asked what they see.

They are Ray actors of their own that outlive the controller; a new controller finds them by name. Each is asked and
told by tasks of its own: one that hangs delays nobody, and what it says late is not lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import RaymillError, find_raymill_error
from serving.access.totals import UseTotals
from serving.control.settings import NAMESPACE, Settings
from serving.control.status import GatewayStatus
from serving.gateway.host import GatewayHost, Listening
from serving.gateway.observation import GatewayReport
from serving.gateway.table import RouteTable

CALL_TIMEOUT_S = 5.0
PATIENCE_S = 1.0
"""So long a round waits for the slowest gateway; later it asks and tells the others alone."""

STUCK_S = 20.0
"""A gateway that answers no call for so long is ended; Ray starts it again."""


@dataclass
class _Gateway:
    """One gateway.

    Attributes:
        report: the last one; it stands until the next, or until the gateway is known to be gone.
        heard: when it last answered, ``time.monotonic()``.
        answers: whether it answered when it was last asked.
        late: calls that it owes an answer to for longer than a round waits.
    """

    handle: Any
    node: str
    listening: Listening | None = None
    report: GatewayReport | None = None
    heard: float = 0.0
    answers: bool = False
    late: set[asyncio.Future[None]] = field(default_factory=set)


class GatewayFleet:
    """Every gateway of one deployment; use it within one event loop."""

    def __init__(self, settings: Settings, node: str) -> None:
        self._settings, self._node = settings, node
        self._gateways: dict[str, _Gateway] = {}
        self._addresses: dict[str, str] = {}
        self._use = UseTotals()
        self._taken: list[GatewayReport] = []
        self.port, self.admin_port = 0, 0
        self.problem: RaymillError | None = None

    async def find(self) -> list[RouteTable]:
        """Take over gateways that an earlier controller started; the tables that they work by."""
        found = await asyncio.to_thread(self._existing)
        for name, handle in found.items():
            self._gateways[name] = _Gateway(handle, "", heard=time.monotonic())
        tables = await asyncio.gather(*(_ask(each.handle.table.remote()) for each in self._gateways.values()))
        await asyncio.gather(*(self._locate(each) for each in self._gateways.values()))
        return [table for table in tables if isinstance(table, RouteTable)]

    async def ensure(self, table: RouteTable | None) -> None:
        """Start those that are missing, have all listen, and end those whose node is gone or that are stuck.

        An address that cannot be listened on is kept in ``problem``.
        """
        nodes = await asyncio.to_thread(self._nodes)
        for name, node in self._names(nodes).items():
            if name not in self._gateways:
                handle = await asyncio.to_thread(self._start, name, node)
                self._gateways[name] = _Gateway(handle, node, heard=time.monotonic())
        for name, gateway in list(self._gateways.items()):
            if name not in self._names(nodes):
                await asyncio.to_thread(_end, gateway.handle, restart=False)
                self._use.gone(name)
                del self._gateways[name]
            elif time.monotonic() - gateway.heard > STUCK_S:
                await asyncio.to_thread(_end, gateway.handle, restart=True)
                del self._gateways[name]  # the next look finds it again, or starts another under its name
        for gateway in list(self._gateways.values()):  # one after the other: the first takes the port
            if gateway.listening is None or not gateway.listening.port:
                await self._listen(gateway, table)

    async def push(self, table: RouteTable) -> None:
        """Tell every gateway; those that cannot be reached now are told when they are back (see :meth:`behind`)."""
        await self._each(lambda name, gateway: _ask(gateway.handle.update.remote(table), None))

    async def poll(self) -> list[GatewayReport]:
        """Ask every gateway; the reports that came since the last poll, each once, those of earlier questions too."""
        await self._each(self._report)
        taken, self._taken = self._taken, []
        return taken

    async def close(self, drain_seconds: float) -> None:
        """Stop listening everywhere, let answers in flight finish, and end the gateways."""
        waiting = (each.handle.close.remote(drain_seconds) for each in self._gateways.values())
        await asyncio.gather(*(_ask(each, drain_seconds + CALL_TIMEOUT_S) for each in waiting))
        for each in self._gateways.values():
            await asyncio.to_thread(_end, each.handle, restart=False)
        self._gateways = {}

    def behind(self, serial: int) -> bool:
        """Whether a gateway that answers works by an older table than this."""
        return any(each.answers and each.report and each.report.serial < serial for each in self._gateways.values())

    def ongoing(self) -> dict[str, int]:
        """Engine address -> requests in flight there, over all gateways, as of the last reports.

        One that does not answer now may still have those that it had.
        """
        return _sum(each.report.ongoing for each in self._gateways.values() if each.report)

    def in_flight(self, address: str, serial: int) -> int | None:
        """Requests to an engine, over all gateways; None while one is silent or works by an older table than this."""
        counts = [
            each.report.ongoing.get(address, 0)
            if each.answers and each.report and each.report.serial >= serial
            else None
            for each in self._gateways.values()
        ]
        return None if None in counts else sum(filter(None, counts))

    def waiting(self) -> dict[str, int]:
        """Variant -> requests that wait for an engine of it."""
        return _sum(each.report.waiting for each in self._gateways.values() if each.report)

    def status(self) -> list[GatewayStatus]:
        """Every gateway, as of its last report; one that does not answer now has version -1."""
        return [
            GatewayStatus(
                name=name,
                node=each.listening.node if each.listening else each.node,
                pid=each.listening.pid if each.listening else 0,
                port=each.report.port if each.report and each.answers else 0,
                version=each.report.version if each.report and each.answers else -1,
                requests=sum(each.report.requests.values()) if each.report else 0,
                dropped=each.report.dropped if each.report else 0,
            )
            for name, each in self._gateways.items()
        ]

    @property
    def listening(self) -> bool:
        """Whether there are gateways and all of them listen."""
        return bool(self._gateways) and all(
            each.listening is not None and each.listening.port for each in self._gateways.values()
        )

    async def _each(self, call: Callable[[str, _Gateway], Awaitable[None]]) -> None:
        """Call every gateway that owes no answer, and wait for them, but not long."""
        calls: dict[asyncio.Future[None], _Gateway] = {
            asyncio.ensure_future(call(name, each)): each for name, each in self._gateways.items() if not each.late
        }
        if not calls:
            return
        done, late = await asyncio.wait(calls, timeout=PATIENCE_S)
        for each in late:  # it goes on: a report that was asked for has taken the observations away
            gateway = calls[each]
            gateway.answers = False
            gateway.late.add(each)
            each.add_done_callback(gateway.late.discard)
        for each in done:
            each.result()

    async def _report(self, name: str, gateway: _Gateway) -> None:
        others = self._use.others(name, self._gateways.keys())
        report = await _ask(gateway.handle.report.remote(others), None)
        gateway.answers = isinstance(report, GatewayReport)
        if not isinstance(report, GatewayReport):
            return
        self._taken.append(report)
        if self._gateways.get(name) is not gateway:  # it was ended meanwhile
            return
        gateway.report, gateway.heard = report, time.monotonic()
        self._use.report(name, report.use)
        if not report.port:
            gateway.listening = None  # it was killed and is back

    async def _listen(self, gateway: _Gateway, table: RouteTable | None) -> None:
        alone = not any(
            other.listening is not None and other.listening.port and self._machine(other) == self._machine(gateway)
            for other in self._gateways.values()
            if other is not gateway
        )
        port, admin_port = self.port or self._settings.port, self.admin_port or self._settings.admin_port
        if table is not None:
            await _ask(gateway.handle.update.remote(table))
        asked = gateway.handle.listen.remote(self._settings.host, port, admin_port, alone)
        answer = await _ask(asked, keep_errors=True)
        if isinstance(answer, Listening):
            gateway.listening, gateway.node, gateway.heard = answer, answer.node, time.monotonic()
            self.port, self.admin_port, self.problem = answer.port, answer.admin_port, None
        elif isinstance(answer, RaymillError):
            self.problem = answer

    async def _locate(self, gateway: _Gateway) -> None:
        answer = await _ask(gateway.handle.listening.remote())
        if isinstance(answer, Listening):
            gateway.node = answer.node
            if answer.port:
                gateway.listening, self.port, self.admin_port = answer, answer.port, answer.admin_port

    def _names(self, nodes: Collection[str]) -> dict[str, str]:
        return {
            f"{self._prefix}{node[:12]}-{index}": node for node in nodes for index in range(self._settings.gateways)
        }

    @property
    def _prefix(self) -> str:
        return f"{self._settings.controller}:gateway-"

    def _existing(self) -> dict[str, Any]:
        import ray

        found = {}
        for each in ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] == NAMESPACE and each["name"].startswith(self._prefix):
                try:
                    found[each["name"]] = ray.get_actor(each["name"], namespace=NAMESPACE)
                except ValueError:  # it ended meanwhile
                    continue
        return found

    def _nodes(self) -> list[str]:
        import ray

        if self._settings.loopback:
            return [self._node]
        alive = [each for each in ray.nodes() if each["Alive"]]
        self._addresses |= {each["NodeID"]: each["NodeManagerAddress"] for each in alive}
        return sorted(each["NodeID"] for each in alive)

    def _machine(self, gateway: _Gateway) -> str:
        """Where a gateway's port is taken: several nodes may share an address."""
        return self._addresses.get(gateway.node, gateway.node)

    def _start(self, name: str, node: str) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "name": name,
            "namespace": NAMESPACE,
            "lifetime": "detached",  # it goes on while the controller, which starts it, is being replaced
            "get_if_exists": True,
            "num_cpus": 0,
            "max_restarts": -1,
            "max_concurrency": 10_000,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        settings = self._settings
        return ray.remote(GatewayHost).options(**options).remote(name, settings.state_url, settings.name)


async def _ask(reference: Any, timeout_s: float | None = CALL_TIMEOUT_S, *, keep_errors: bool = False) -> Any:
    """The answer of an actor; None where it cannot answer now, or our own error where those are wanted."""
    import ray

    try:
        return await asyncio.wait_for(reference, timeout_s)
    except (ray.exceptions.RayError, TimeoutError) as error:
        return find_raymill_error(error) if keep_errors else None


def _end(handle: Any, *, restart: bool) -> None:
    import ray

    ray.kill(handle, no_restart=not restart)


def _sum(counts: Any) -> dict[str, int]:
    totals: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            totals[name] = totals.get(name, 0) + count
    return totals
