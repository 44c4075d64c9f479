"""Where torch's processes meet: not where others can reach it, in one process and in two."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.torch_store import is_loopback

ROOT = Path(__file__).resolve().parents[2]
MEETS = """
import json, os, sys
import torch, torch.distributed as dist
from cluster.torch_store import listen_where_told
from tests.cluster.socket_probe import beyond_loopback

if sys.argv[1] == "ours":
    listen_where_told("127.0.0.1")
    listen_where_told(sys.argv[2] if len(sys.argv) > 2 else None)
dist.init_process_group("gloo")
total = torch.ones(1) * (1 + dist.get_rank())
dist.all_reduce(total)
dist.barrier()
opened = beyond_loopback([os.getpid()])
dist.barrier()
dist.destroy_process_group()
print(json.dumps({"total": total.item(), "opened": len(opened)}))
"""


def meet(which: Sequence[str], size: int, address: str = "127.0.0.1", **environment: str) -> list[dict[str, Any]]:
    """What each process of a group says: the sum of their numbers, and how many sockets others can reach."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MEETS, *which],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | own | {"RANK": str(rank), "OMP_NUM_THREADS": "1"} | environment,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads(text.splitlines()[-1]) for text in said]


@pytest.mark.parametrize(("which", "address"), [(["ours"], "127.0.0.1"), (["ours", "127.0.0.1"], "192.0.2.1")])
def test_two_processes_meet_where_nobody_else_can(which: list[str], address: str) -> None:
    """Named so, or because they are on one machine, whatever address Ray named them by."""
    assert meet(which, 2, address) == [{"total": 3.0, "opened": 0}] * 2


def test_torch_by_itself_listens_everywhere() -> None:
    """Else this module could go."""
    (alone,) = meet(["torch's"], 1, GLOO_SOCKET_IFNAME="lo")
    assert alone == {"total": 1.0, "opened": 1}


def test_where_the_address_is_another_machines_torch_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the nodes' addresses are translated on the way; the store then listens as torch lets it."""
    from cluster import torch_store

    asked = []
    monkeypatch.setattr(torch_store, "_TORCHS", [lambda *given: asked.append(given)])
    torch_store._create_store("192.0.2.1", 1, 0, 2, None)  # type: ignore[arg-type]
    torch_store._create_store("127.0.0.1", 1, 1, 2, None)  # type: ignore[arg-type]
    assert [given[:4] for given in asked] == [("192.0.2.1", 1, 0, 2), ("127.0.0.1", 1, 1, 2)]


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a.b", False)],
)
def test_what_this_machine_is_called(host: str, here: bool) -> None:
    assert is_loopback(host) is here
