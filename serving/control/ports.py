"""Whether the endpoint can listen where the recipe says, asked before anything expensive starts."""

from __future__ import annotations

import errno
import socket

from cluster.errors import UserError


def require_free(host: str, port: int, *, key: str = "port") -> None:
    """Raise UserError unless a server could listen there alone now (port 0: any free one, always).

    Also where what listens there would share the port (SO_REUSEPORT): half of the callers would reach it.

    Args:
        key: the recipe's key below ``serving`` that names the port.
    """
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
            raise cannot_listen(host, port, error, key=key) from None


def cannot_listen(host: str, port: int, error: Exception, *, key: str = "port") -> UserError:
    """The error for an address that the endpoint cannot have."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {port} is in use",
            where=f"serving.{key}: {port}",
            next_step=f"choose another with `--set serving.{key}=N` (0 takes any free one), or stop what listens there",
        )
    return UserError(
        f"cannot listen on {host}:{port}: {error}",
        where=f"serving.host: {host}",
        next_step="name an address of this machine, and a port that this user may open",
    )
