"""A server between a client and an S3 server that harms some of the requests, by a plan that a seed repeats."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_SECONDS = 0.2
BUSY_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
GONE_BODY = b"<Error><Code>NoSuchUpload</Code><Message>The specified upload does not exist.</Message></Error>"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}
_NEVER_THE_SAME = re.compile(r"uploadId=[^&]*|[0-9a-f]{8,}|\d{8}T\d{6}")
"""Parts of a request's line that differ from run to run, and must not change what the seed decides."""


class Fault(StrEnum):
    """What happens to one request."""

    RESET = "the connection is reset in the middle of the request, which the server never sees"
    BUSY = "503 SlowDown instead of the server's answer; it never sees the request"
    SLOW = "the answer comes late"
    HALF = "half of the answer's body under the whole one's length, and the connection ends"
    LOST = "the server does what is asked, and the connection is reset instead of its answer"
    FLIPPED = "one bit of the answer's body is another"


ORDINARY = (Fault.RESET, Fault.BUSY, Fault.SLOW, Fault.HALF, Fault.LOST)
"""What a network and a server do; a flipped bit is not theirs to do, and reads of ranges cannot see it."""

Plan = Callable[[str, str, int], Fault | None]
"""Method, target and how often that was asked before -> what happens to it."""


def untouched(method: str, target: str, times: int) -> None:
    """Nothing happens to anything."""


def seeded(seed: int, share: float, faults: tuple[Fault, ...] = ORDINARY, in_a_row: int = 2) -> Plan:
    """A share of all requests, of each kind of fault as many; the same request is never harmed more often in a row."""

    def plan(method: str, target: str, times: int) -> Fault | None:
        if times % (in_a_row + 1) == in_a_row:
            return None
        what = f"{seed} {method} {_NEVER_THE_SAME.sub('', target)} {times}"
        drawn = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8).digest(), "big")
        return faults[drawn % len(faults)] if (drawn >> 16) % 10_000 < share * 10_000 else None

    return plan


def first(fault: Fault, method: str, part: str, count: int = 1) -> Plan:
    """The fault for the first requests of a method with this in their target, and nothing else."""

    def plan(asked: str, target: str, times: int) -> Fault | None:
        return fault if asked == method and part in target and times < count else None

    return plan


@dataclass
class FaultProxy:
    """See the module's text.

    Requests reach the server one after the other: S3 puts an object with its metadata atomically, and moto does not.

    Attributes:
        plan: may be replaced at any time.
        forgetful: a completed multipart upload is unknown when it is completed again, as MinIO's are; AWS and moto
            answer as they did the first time.
        done: how often each fault happened.
        keys: ids of the credentials that requests were signed with; empty for one that was not signed.
    """

    server: str
    plan: Plan = untouched
    forgetful: bool = False
    done: Counter[Fault] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    requests: int = 0
    url: str = ""
    _asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    _completed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[FaultProxy]:
        """The proxy on a free port of this machine, until the context ends."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        with _Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
            if tls:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def decide(self, method: str, target: str, authorization: str) -> Fault | None:
        """What happens to a request that has just come."""
        signed = re.search(r"Credential=([^/]+)/", authorization)
        with self._lock:
            self.requests += 1
            self.keys.add(signed[1] if signed else "")
            times = self._asked[method, target]
            self._asked[method, target] += 1
        return self.plan(method, target, times)

    def count(self, fault: Fault) -> None:
        """A fault has happened."""
        with self._lock:
            self.done[fault] += 1

    def ask(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """The server's answer."""
        with self._one_at_a_time:
            completes = self.forgetful and method == "POST" and "uploadId=" in target
            if completes and target in self._completed:
                return Answer(404, [("Content-Type", "application/xml")], GONE_BODY)
            answer = self._forward(method, target, headers, body)
            if completes and answer.status == 200:
                self._completed.add(target)
            return answer

    def _forward(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        place = urlsplit(self.server)
        assert place.hostname
        connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
        try:
            connection.request(method, target, body or None, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
        length = response.getheader("Content-Length") if method == "HEAD" else None
        return Answer(response.status, kept, data, length)


@dataclass(frozen=True)
class Answer:
    """A response: ``length`` is what its header says where there is no body to say it (HEAD)."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: str | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)  # without the orderly end that the base class sends, which would hide a reset

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what this is about; nothing is printed."""


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization", "")
        fault = self.owner.decide(self.command, self.path, authorization)
        if fault is Fault.RESET:
            self._body(of_it=0.5)
            self._reset(fault)
            return
        body = self._body()
        if fault is Fault.BUSY:
            self.owner.count(fault)
            self._send(Answer(503, [("Content-Type", "application/xml")], BUSY_BODY))
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        answer = self.owner.ask(self.command, self.path, headers, body)
        if fault is Fault.LOST:
            self._reset(fault)
            return
        if fault is Fault.SLOW:
            self.owner.count(fault)
            time.sleep(SLOW_SECONDS)
        harmed = fault in (Fault.HALF, Fault.FLIPPED) and len(answer.body) > 1 and self.command != "HEAD"
        if harmed and fault is not None:
            self.owner.count(fault)
        self._send(answer, fault if harmed else None)

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _send(self, answer: Answer, fault: Fault | None = None) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", answer.length or str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        body, middle = answer.body, len(answer.body) // 2
        if fault is Fault.FLIPPED:
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if fault is Fault.HALF:
            body = body[:middle]
            self.close_connection = True
        self.wfile.write(body)

    def _reset(self, fault: Fault) -> None:
        self.owner.count(fault)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _body(self, of_it: float = 1.0) -> bytes:
        """The request's body, or the first part of it."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(int(self.headers.get("Content-Length") or 0) * of_it))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed for a request."""
