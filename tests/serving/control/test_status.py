"""A change is in force when the controller and every gateway work by it; endpoints are found, or their absence said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from cluster.errors import InfraError, UserError
from cluster.store import Store
from cluster.store_local import LocalStore
from serving.control import status
from serving.control.endpoint import (
    Endpoint,
    endpoint_key,
    is_abandoned,
    read_endpoint,
    remove_endpoint,
    write_endpoint,
)
from serving.control.status import DeploymentStatus, GatewayStatus, wait_applied


def shown(version: int, *gateways: int) -> DeploymentStatus:
    each = tuple(GatewayStatus(name=f"g{n}", node="n1", version=at) for n, at in enumerate(gateways))
    return DeploymentStatus(version=version, gateways=each)


def test_applied_needs_everybody() -> None:
    assert shown(3, 3, 3).applied(3)
    assert shown(4, 4, 4).applied(3)
    assert not shown(3, 3, 2).applied(3)
    assert not shown(2, 3, 3).applied(3)
    assert not shown(3).applied(3)
    assert shown(3, 3, 2).gateways_at(3) == 1


def test_status_is_kept_and_removed(any_store: Store) -> None:
    assert status.read(any_store, "docs") is None
    status.write(any_store, "docs", shown(3, 3))
    assert status.read(any_store, "docs") == shown(3, 3)
    status.remove(any_store, "docs")
    assert status.read(any_store, "docs") is None


def test_a_status_of_another_release_counts_as_none(store: LocalStore) -> None:
    store.write(status.status_key("docs"), b'{"version": 3, "something": "new"}')
    assert status.read(store, "docs") is None


def test_waiting_ends_when_the_last_gateway_follows(store: LocalStore) -> None:
    status.write(store, "docs", shown(3, 3, 2))
    later = threading.Timer(0.2, lambda: status.write(store, "docs", shown(3, 3, 3)))
    later.start()
    assert 0 < wait_applied(store, "docs", 3, 30.0) < 30
    later.join()


def test_waiting_in_vain_says_for_whom(store: LocalStore) -> None:
    with pytest.raises(InfraError, match="no status"):
        wait_applied(store, "docs", 3, 0.0)
    status.write(store, "docs", shown(2, 3, 2))
    with pytest.raises(InfraError, match=r"the controller has 2, g1 on n1 has 2"):
        wait_applied(store, "docs", 3, 0.0)
    status.write(store, "docs", shown(3))
    with pytest.raises(InfraError, match="no gateway"):
        wait_applied(store, "docs", 3, 0.0)


def test_a_foreground_process_that_is_gone_serves_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    mine = Endpoint(
        name="docs", url="", admin_url="", ray_address="", started_at=1.0, started_by="me", host=socket.gethostname()
    )
    assert is_abandoned(mine.model_copy(update={"pid": process.pid}))
    assert not is_abandoned(mine.model_copy(update={"pid": process.pid, "host": "elsewhere"}))
    assert not is_abandoned(mine.model_copy(update={"pid": os.getpid()}))
    assert not is_abandoned(mine)


def test_endpoint_record(any_store: Store) -> None:
    assert read_endpoint(any_store, "docs") is None
    endpoint = Endpoint(
        name="docs",
        url="http://127.0.0.1:8000",
        admin_url="http://127.0.0.1:8001",
        ray_address="127.0.0.1:6379",
        started_at=1.0,
        started_by="me",
    )
    write_endpoint(any_store, endpoint)
    assert endpoint_key("docs") == "deployments/docs.json"
    assert read_endpoint(any_store, "docs") == endpoint
    any_store.write("deployments/docs.json", b'{"name": "docs"}')
    with pytest.raises(UserError, match="damaged"):
        read_endpoint(any_store, "docs")
    remove_endpoint(any_store, "docs")
    assert read_endpoint(any_store, "docs") is None
