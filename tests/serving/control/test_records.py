"""What the store says of a deployment that runs, and whose word that is."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.progress import Progress
from cluster.store_local import LocalStore
from serving.config import ServingConfig
from serving.control import records, status
from serving.control.controller import until_done
from serving.control.deploy import Deployment
from serving.control.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from serving.control.journal import Journal
from serving.control.records import FRESH_S, Records, forget, served_elsewhere
from serving.control.redeploy import first_state, intend
from serving.control.settings import Settings, require_same_address
from serving.control.state import ModelSource, ServingState
from serving.control.status import DeploymentStatus, GatewayStatus
from serving.control.takedown import remove
from serving.engines.plan import VariantSource, initial_state

PRODUCTION = Endpoint(
    name="docs", url="http://10.0.0.1:8000", admin_url="", ray_address="10.0.0.1:6379", started_at=1.0, started_by="ops"
)


def serve(store: LocalStore, endpoint: Endpoint = PRODUCTION, written_at: float = 0.0) -> None:
    write_endpoint(store, endpoint)
    status.write(store, "docs", DeploymentStatus(version=1, written_at=written_at or time.time()))


def here(store: LocalStore, tracker: Any = None, **options: Any) -> Deployment:
    config = ServingConfig(port=0, admin_port=0)
    return Deployment(config, store, store, "docs", "me", Path(), tracker, options.get("detached", False))


def test_a_detached_deployment_that_lives_keeps_others_from_its_name(store: LocalStore) -> None:
    serve(store)
    assert served_elsewhere(store, "docs", time.time()) == "at http://10.0.0.1:8000 by the cluster at 10.0.0.1:6379"
    with pytest.raises(UserError, match=r"served already, at http://10.0.0.1:8000"):
        here(store)._require_alone()
    serve(store, written_at=time.time() - FRESH_S - 1)  # its controller is gone
    here(store)._require_alone()


def test_a_foreground_process_counts_by_its_process_or_on_another_machine_by_its_status(store: LocalStore) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    gone = PRODUCTION.model_copy(update={"pid": process.pid, "host": socket.gethostname()})
    serve(store, gone)
    assert served_elsewhere(store, "docs", time.time()) == ""
    serve(store, gone.model_copy(update={"pid": os.getppid()}))
    assert f"by process {os.getppid()}" in served_elsewhere(store, "docs", time.time())
    serve(store, gone.model_copy(update={"host": "elsewhere"}))
    assert f"by process {process.pid} on elsewhere" in served_elsewhere(store, "docs", time.time())


def test_another_process_with_the_number_of_one_that_is_gone_blocks_nothing(store: LocalStore) -> None:
    another = PRODUCTION.model_copy(update={"pid": os.getppid(), "host": socket.gethostname()})
    serve(store, another, written_at=time.time() - FRESH_S - 1)
    assert served_elsewhere(store, "docs", time.time()) == ""
    here(store)._require_alone()
    remove(store, "docs", another)


def test_who_gives_up_without_having_started_anything_stops_nothing(store: LocalStore) -> None:
    source = VariantSource(ModelSource(folder="/models/base"))
    config = ServingConfig()
    journal = Journal(store, "docs")
    sources = {each.name: source for each in config.variants}
    wanted = journal.create(initial_state(config, sources, name="docs", by="ops", now=1.0))
    serve(store)
    loser = here(store, detached=True)
    loser._wanted = wanted
    loser._give_up(RuntimeError("the name is taken"))
    assert not journal.current().stopped
    assert read_endpoint(store, "docs") == PRODUCTION


def test_of_two_who_deploy_at_once_the_one_who_has_the_name_says_what_is_served(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = VariantSource(ModelSource(folder="/models/base"))

    def recipe(**settings: Any) -> ServingState:
        config = ServingConfig.model_validate(settings)
        sources = {each.name: source for each in config.variants}
        return first_state(config, sources, name="docs", by="me", now=1.0)

    def too_late(self: Deployment, commands: Any) -> None:
        intend(Journal(store, "docs"), recipe(limits={"try_seconds": 7}))

    monkeypatch.setattr(Deployment, "_start_controller", too_late)
    monkeypatch.setattr(Deployment, "_wait_until_ready", lambda self: None)
    mine = recipe()
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        winner = here(store, tracker)
        winner._start(mine, {})
    newest = Journal(store, "docs").current()
    assert (newest.version, newest.recipe_sha256, winner._wanted) == (3, mine.recipe_sha256, newest)


def test_only_ones_own_records_are_removed(store: LocalStore) -> None:
    serve(store)
    forget(store, "docs", pid=77, host="laptop", ray_address="127.0.0.1:6379")
    forget(store, "docs", pid=0, host="", ray_address="10.0.0.2:6379")
    assert read_endpoint(store, "docs") == PRODUCTION
    assert status.read(store, "docs") is not None
    forget(store, "docs", pid=0, host="", ray_address="10.0.0.1:6379")
    assert read_endpoint(store, "docs") is None
    assert status.read(store, "docs") is None


def test_a_second_cluster_takes_over_and_the_first_goes_silent(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two controllers at most one decides at any time: the new one waits until the old one must have seen it."""
    now = [100.0]
    monkeypatch.setattr(records, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(records, "REPEAT_S", 0.0)
    old_endpoint = PRODUCTION.model_copy(update={"deployed_at": 10.0})
    new_endpoint = PRODUCTION.model_copy(update={"url": "http://10.0.0.2:8000", "deployed_at": 20.0})
    older_status, newer_status = (DeploymentStatus(version=each, written_at=time.time()) for each in (1, 2))

    async def both() -> None:
        old, new = Records(store, "docs"), Records(store, "docs", takes_over=True)
        await old.publish(old_endpoint)
        assert old.decides
        assert not new.decides  # before it has looked
        await new.publish(new_endpoint)
        assert not new.decides  # before the old one has looked
        assert read_endpoint(store, "docs") == new_endpoint
        await old.publish(old_endpoint)
        assert not old.decides
        assert read_endpoint(store, "docs") == new_endpoint
        await new.write(newer_status)
        await old.write(older_status)
        found = status.read(store, "docs")
        assert found is not None and found.version == 2
        now[0] += records.TAKE_OVER_S
        assert new.decides
        again = Records(store, "docs")  # the old one's controller was killed, and Ray starts it once more
        await again.publish(old_endpoint)
        assert not again.decides
        assert read_endpoint(store, "docs") == new_endpoint

    asyncio.run(both())
    with pytest.raises(UserError, match="served already"):
        here(store)._require_alone()
    Deployment(
        ServingConfig(port=0, admin_port=0), store, store, "docs", "me", Path(), None, True, True
    )._require_alone()


def test_where_nobody_served_it_a_takeover_decides_at_once(store: LocalStore) -> None:
    async def alone() -> None:
        mine = Records(store, "docs", takes_over=True)
        await mine.publish(PRODUCTION.model_copy(update={"deployed_at": 5.0}))
        assert mine.decides

    asyncio.run(alone())


def test_an_endpoints_record_that_somebody_removed_comes_back(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "REPEAT_S", 0.0)

    async def publish_twice() -> None:
        mine = Records(store, "docs")
        await mine.publish(PRODUCTION)
        remove_endpoint(store, "docs")
        await mine.publish(PRODUCTION)

    asyncio.run(publish_twice())
    assert read_endpoint(store, "docs") == PRODUCTION


def test_a_status_in_which_only_counts_changed_is_not_written_again_at_once(store: LocalStore) -> None:
    def seen(requests: int, version: int = 1) -> DeploymentStatus:
        gateway = GatewayStatus(name="g", version=version, requests=requests, dropped=requests)
        return DeploymentStatus(version=1, gateways=(gateway,))

    async def write() -> list[int]:
        mine, kept = Records(store, "docs"), []
        for each in (seen(1), seen(2), seen(3, version=2)):
            await mine.write(each)
            last = status.read(store, "docs")
            assert last is not None
            kept.append(last.gateways[0].requests)
        return kept

    assert asyncio.run(write()) == [1, 1, 3]


def test_no_write_that_was_under_way_lands_after_the_end(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on, write = threading.Event(), threading.Event(), status.write

    def slowly(*arguments: Any) -> None:
        writing.set()
        go_on.wait(10)
        write(*arguments)

    monkeypatch.setattr(status, "write", slowly)

    async def end() -> None:
        mine = Records(store, "docs")
        await mine.publish(PRODUCTION)
        under_way = asyncio.create_task(mine.write(DeploymentStatus(version=1)))
        await asyncio.to_thread(writing.wait)
        forgetting = asyncio.create_task(mine.forget(0, "", PRODUCTION.ray_address))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(under_way, forgetting)
        await mine.write(DeploymentStatus(version=2))
        await mine.publish(PRODUCTION)

    asyncio.run(end())
    assert list(store.files("deployments/")) == []


def test_what_fails_while_it_ends_is_tried_again() -> None:
    tries: list[Exception] = []

    async def remove() -> None:
        if len(tries) < 2:
            raise TimeoutError("applications are still there")

    asyncio.run(until_done(remove, tries.append, pause_s=0.0))
    assert list(map(str, tries)) == ["applications are still there"] * 2


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"port": 9000}, "it runs with port 8000, and the recipe says port 9000"),
        (
            {"host": "0.0.0.0", "gateways": 3},
            "host 127.0.0.1, gateways 1, and the recipe says host 0.0.0.0, gateways 3",
        ),
        ({"admin_port": 9001}, "admin_port 8001"),
    ],
)
def test_a_running_deployment_listens_where_it_was_started(recipe: dict[str, Any], named: str) -> None:
    running = Settings("docs", "", "", "127.0.0.1", 8000, 8001, 1, "secret")
    same = {"host": "127.0.0.1", "port": 8000, "admin_port": 8001, "gateways": 1}
    require_same_address(running, ServingConfig.model_validate(same))
    require_same_address(running, ServingConfig.model_validate(same | {"port": 0, "admin_port": 0}))
    with pytest.raises(UserError, match=named) as caught:
        require_same_address(running, ServingConfig.model_validate(same | recipe))
    assert "undeploy --deployment docs" in caught.value.next_step
