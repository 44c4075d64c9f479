"""A link between a client and a server whose connections are reset after so many bytes of answers."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)
"""A socket that lingers for no time is closed by a reset."""


@dataclass
class Link:
    """What came of it.

    Attributes:
        resets: connections that were reset.
    """

    upstream: tuple[str, int]
    limits: Iterator[int]
    url: str = ""
    resets: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def carry(self, client: socket.socket) -> None:
        """Pass one connection's bytes on, both ways, until an end closes or its limit is reached."""
        with self.lock:
            limit = next(self.limits)
        with client, socket.create_connection(self.upstream) as server:
            requests = threading.Thread(target=self._requests, args=(client, server), daemon=True)
            requests.start()
            with suppress(OSError):
                while data := server.recv(4096):
                    client.sendall(data[:limit])
                    limit -= len(data)
                    if limit < 0:
                        break
            if limit < 0:
                with self.lock:
                    self.resets += 1
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RD)  # the other thread reads it, and a socket that is read stays open
                requests.join()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(4096):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


@contextmanager
def resetting(url: str, limits: Iterable[int]) -> Iterator[Link]:
    """A link to the server of a URL.

    Args:
        limits: bytes of answers after which each connection, in order, is reset.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = Link((parts.hostname, parts.port), iter(limits), f"http://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=link.carry, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield link
        listener.shutdown(socket.SHUT_RDWR)
