"""Whether the endpoint can listen where the recipe says, asked before anything expensive starts."""

from __future__ import annotations

import errno
import socket

from cluster.errors import UserError


def require_free(host: str, port: int) -> None:
    """Raise UserError unless a server could listen there now (port 0: any free one, always)."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise cannot_listen(host, port, error) from None


def cannot_listen(host: str, port: int, error: Exception) -> UserError:
    """The error for an address that the endpoint cannot have."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {port} is in use",
            where=f"serving.port: {port}",
            next_step="choose another with `--set serving.port=N` (0 takes any free one), or stop what listens there",
        )
    return UserError(
        f"cannot listen on {host}:{port}: {error}",
        where=f"serving.host: {host}",
        next_step="name an address of this machine, and a port that this user may open",
    )
