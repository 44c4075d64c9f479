"""Where torch's processes meet: on the address that they were told, and on no other.

Torch (2.13) lets the store of a process group listen on every interface, whatever address it was told, and asks nobody
who they are; gloo and NCCL listen where the machine's name or its fastest interface leads. Here the store listens on
that one address, and where it is this machine's own, so do the others. This file needs the standard library and torch
alone: vLLM servers of other interpreters load it, too.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
from datetime import timedelta
from typing import Any

LOOPBACK = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
BACKLOG = 2048
MAKER = "_create_c10d_store"


def listen_where_told(at: str | None = None) -> None:
    """From here on, stores that this process opens for a group listen on the address that the group is named by.

    Args:
        at: the address to meet at instead, for groups whose processes are all on this machine.
    """
    _INSTEAD[:] = [at] if at else []
    rendezvous = importlib.import_module("torch.distributed.rendezvous")  # a function of torch's hides the module
    given = getattr(rendezvous, MAKER, None)
    if given is not None and given is not _create_store:  # another torch than ours, an engine's, may have none
        _TORCHS.append(given)
        setattr(rendezvous, MAKER, _create_store)


_TORCHS: list[Any] = []
"""What torch itself makes stores with."""

_INSTEAD: list[str] = []


def _create_store(
    hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
) -> Any:
    """Torch's function of this place; where the address is not this machine's, or is taken, it has the last word."""
    from torch.distributed import TCPStore

    hostname = _INSTEAD[0] if _INSTEAD else hostname
    if is_loopback(hostname):
        for variable in INTERFACES:
            os.environ.setdefault(variable, loopback_interface())
    listener = _listen(hostname, port) if rank == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ else None
    if listener is None:
        return _TORCHS[0](hostname, port, rank, world_size, timeout, use_libuv)
    return TCPStore(
        host_name=hostname,
        port=listener.getsockname()[1],
        world_size=world_size,
        is_master=True,
        timeout=timeout,
        multi_tenant=True,
        master_listen_fd=listener.detach(),
        use_libuv=use_libuv,
    )


def _listen(hostname: str, port: int) -> socket.socket | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        return None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        return None
    return listener


def is_loopback(hostname: str) -> bool:
    """Whether an address is this machine's own, by its text."""
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def loopback_interface() -> str:
    """The name of the interface that leads nowhere else."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")
