"""What processes listen on beyond loopback, and whether it answers somebody without the token."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable

import psutil

from cluster.checkup import CLIENT_CALL, GCS_CALL, GRPC_PORTS, grpc_is_open, http_is_open

CALLS = (
    GCS_CALL,
    *GRPC_PORTS.values(),
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    CLIENT_CALL,
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
)
"""A call of every service of Ray's that listens: Ray looks for the call before it looks for the token."""

Listener = tuple[str, int]
"""Address and port; the address is one to connect to."""


def beyond_loopback(pids: Iterable[int]) -> dict[Listener, str]:
    """Every listening TCP socket of processes that others can reach, with its process's command line."""
    found = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            words = " ".join(process.cmdline())[:120]
            for each in process.net_connections("tcp"):
                if (
                    each.status == psutil.CONN_LISTEN
                    and not each.laddr.ip.startswith("127.")
                    and each.laddr.ip != "::1"
                ):
                    host = "127.0.0.1" if each.laddr.ip in ("0.0.0.0", "::") else each.laddr.ip
                    found[(host, each.laddr.port)] = words
        except psutil.NoSuchProcess:
            continue
    return found


def is_open(listener: Listener) -> bool:
    """Whether a listening port of any kind answers without a token."""
    target = f"{listener[0]}:{listener[1]}"
    return http_is_open(f"http://{target}/api/none") or any(grpc_is_open(target, call) for call in CALLS)


def asks_for_token(listener: Listener, patience_s: float = 3.0) -> bool:
    """Whether a listening port refuses somebody without a token in so many words, over gRPC or HTTP."""
    import grpc

    target = f"{listener[0]}:{listener[1]}"
    with grpc.insecure_channel(target) as channel:
        ready = grpc.channel_ready_future(channel)
        try:
            ready.result(patience_s)
            calls = CALLS
        except grpc.FutureTimeoutError:  # it speaks something else
            calls = ()
        for call in calls:
            try:
                channel.unary_unary(call)(b"", timeout=patience_s)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                    return True
    try:
        urllib.request.urlopen(f"http://{target}/api/none", timeout=patience_s).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, http.client.HTTPException):  # nobody there, or it speaks something else
        return False
    return False
