"""A closed-loop load client, lean enough not to be what is measured; run as a process of its own.

Each line on standard input is a :class:`Load` as JSON, each line on standard output its :class:`Outcome`. Every
connection sends its next request when the answer to the one before is complete. Both sides get the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field

import httptools
import uvloop


@dataclass(frozen=True)
class Load:
    """What to send: to whom, how many at a time, and for how long."""

    host: str
    port: int
    key: str
    bodies: list[str]
    concurrency: int
    seconds: float
    path: str = "/v1/completions"


@dataclass
class Outcome:
    """What came back; times in seconds, one of each for every complete answer.

    Attributes:
        first: from the request's last byte sent to the answer's first body byte.
        whole: to its last.
        wall: from the first request to the last answer.
        failures: answers with another status than 200, and connections that broke; with the first one's reason.
        body_bytes: of all complete answers.
    """

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    wall: float = 0.0
    failures: int = 0
    reason: str = ""
    body_bytes: int = 0


class _Client(asyncio.Protocol):
    """One connection, asking again and again until the time is up."""

    def __init__(self, load: Load, requests: list[bytes], start: int, until: float, outcome: Outcome) -> None:
        self._load, self._requests, self._next, self._until, self._outcome = load, requests, start, until, outcome
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began = self._first = 0.0
        self._tail = b""

    def connection_made(self, transport) -> None:  # type: ignore[no-untyped-def]
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        request = self._requests[self._next % len(self._requests)]
        self._next += self._load.concurrency
        self._parser = httptools.HttpResponseParser(self)
        self._first, self._bytes, self._tail = 0.0, 0, b""
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        self._bytes += len(body)
        self._tail = body

    def on_message_complete(self) -> None:
        now, outcome = time.perf_counter(), self._outcome
        status = self._parser.get_status_code()
        if status == 200 and b'"error"' not in self._tail:
            outcome.first.append(self._first - self._began)
            outcome.whole.append(now - self._began)
            outcome.body_bytes += self._bytes
        else:
            outcome.failures += 1
            outcome.reason = outcome.reason or f"{status} {self._tail[:300]!r}"
        if now < self._until and outcome.failures < 10:
            asyncio.get_running_loop().call_soon(self._ask)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self._until and self._outcome.failures < 10:
            self._outcome.failures += 1
            self._outcome.reason = self._outcome.reason or f"the connection closed: {error}"
        if not self.done.done():
            self.done.set_result(None)


async def apply(load: Load) -> Outcome:
    """Put the load on, and say what came back."""
    head = (
        f"POST {load.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nAuthorization: Bearer {load.key}\r\n"
        "Content-Type: application/json\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        "User-Agent: raymill-benchmark\r\n"
    )
    requests = [
        f"{head}X-User-Id: user-{index}\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        for index, body in enumerate(load.bodies)
    ]
    outcome, loop = Outcome(), asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + load.seconds
    connecting = [
        loop.create_connection(
            lambda start=start: _Client(load, requests, start, until, outcome),  # type: ignore[misc]
            load.host,
            load.port,
        )
        for start in range(load.concurrency)
    ]
    clients = [client for _, client in await asyncio.gather(*connecting)]
    await asyncio.wait_for(asyncio.gather(*(client.done for client in clients)), load.seconds + 120)
    outcome.wall = time.perf_counter() - began
    return outcome


def main() -> None:
    for line in sys.stdin:
        outcome = uvloop.run(apply(Load(**json.loads(line))))
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
