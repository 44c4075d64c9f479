"""A real cluster of two nodes with token authentication: submit, follow, find again; its token is shown to nobody."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cluster import local_cluster, reaper
from cluster.checkup import open_by_design
from cluster.job_record import read_job
from cluster.jobs import Submission
from cluster.jobs_api import JobsClient
from cluster.local_cluster import HEAD, ClusterRecord, find_cluster
from cluster.store_local import LocalStore
from tests.cluster.families import family
from tests.cluster.resetting import resetting
from tests.cluster.socket_probe import beyond_loopback, is_open

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = """
name: small
corpus: {sources: [{kind: text, path: words, licence: MIT}]}
"""


@dataclass
class Place:
    """A folder with a recipe, a cluster, and the command line in both."""

    folder: Path

    @property
    def record(self) -> ClusterRecord:
        return find_cluster(None)

    def raymill(self, *words: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            timeout=200,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("cluster")
    folder = base / "work"
    (folder / "words").mkdir(parents=True)
    for number in range(3):
        (folder / "words" / f"{number}.txt").write_text(f"the cat number {number} sat on the mat and looked at rain.\n")
    (folder / "small.yaml").write_text(RECIPE)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAYMILL_CLUSTERS", str(base / "clusters"))
    patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    made = Place(folder)
    made.raymill("cluster", "up", "--nodes", "2", "--cpus", "2", "--object-store-bytes", str(80 << 20))
    try:
        yield made
    finally:
        record = made.record
        made.raymill("cluster", "down", "--yes")
        assert [reaper.marked_processes(node.mark) for node in record.nodes] == [[] for _ in record.nodes]
        assert not Path(record.folder).exists()
        assert not Path(record.temp).exists()
        patch.undo()


def processes_with(record: ClusterRecord) -> set[int]:
    return {pid for node in record.nodes for pid in family(node.mark)}


def test_a_recipe_is_submitted_followed_and_found_again(place: Place) -> None:
    done = place.raymill("submit", "small.yaml", "--follow", "--yes", "--json")
    first = json.loads(done.stdout)
    assert (first["new"], first["status"], first["exit_code"]) == (True, "SUCCEEDED", 0)
    assert "[corpus]" in done.stderr
    again = json.loads(place.raymill("submit", "small.yaml", "--follow", "--yes", "--json").stdout)
    assert again == first | {"new": False}
    listed: list[dict[str, Any]] = json.loads(
        place.raymill("jobs", "list", "--store", "raymill-store", "--json").stdout
    )
    assert (first["run"], "SUCCEEDED") in [(row["job"], row["status"]) for row in listed]
    log = place.raymill("jobs", "logs", first["run"], "--store", "raymill-store").stdout
    assert "everything about the run" in log


def test_a_job_that_waits_and_one_that_failed_are_explained(place: Place) -> None:
    waiting = place.raymill("submit", "small.yaml", "--driver-cpus", "64", "--set", "name=waits", "--json").stdout
    deadline = time.monotonic() + 60  # Ray takes a job up a moment after it has said yes
    while "it needs" not in (why := place.raymill("jobs", "why", json.loads(waiting)["job"]).stdout):
        assert time.monotonic() < deadline, why
    assert "it needs 64 CPU on one node, and the most that one has is 2 CPU" in why
    failed = place.raymill(
        *("submit", "small.yaml", "--follow", "--set", "name=fails", "--set", "corpus.sources.0.path=none"), code=2
    )
    assert "none: no such file or folder" in failed.stderr
    why = place.raymill("jobs", "why", "fails").stdout
    assert "none: no such file or folder" in why
    assert "next: check the path" in why


def test_the_cluster_asks_for_its_token_and_shows_it_to_nobody(place: Place) -> None:
    record = find_cluster(None)
    token = Path(record.token_file)
    assert token.stat().st_mode & 0o777 == 0o600
    secret = token.read_bytes()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{record.dashboard}/api/jobs/", timeout=10)
    assert refused.value.code == 401
    found = processes_with(record)
    assert len(found) > 8
    for pid in found:
        for kind in ("cmdline", "environ"):
            try:
                assert secret not in (Path("/proc") / str(pid) / kind).read_bytes()
            except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
                continue
    logs = [*Path(record.temp).rglob("*.log"), *Path(record.temp).rglob("*.out"), *Path(record.temp).rglob("*.err")]
    assert len(logs) > 5
    for log in [*logs, *Path(record.folder).glob("*.log"), Path(record.folder) / "cluster.json"]:
        assert secret not in log.read_bytes(), log


def test_every_port_beyond_loopback_asks_for_the_token_or_has_its_reason(place: Place) -> None:
    """The sockets of all processes of the cluster, against the allow-list of cluster/checkup.py."""
    client = JobsClient.open(place.record.dashboard)
    listed = [node["raylet"] for node in client.get("/nodes?view=summary")["data"]["summary"]]
    allowed = {port for raylet in listed for port in open_by_design(raylet)}
    found = beyond_loopback(processes_with(place.record))
    assert len(found) > 4
    assert {what for where, what in found.items() if where[1] not in allowed and is_open(where)} == set()


def test_doctor_finds_nothing_that_is_open(place: Place) -> None:
    done = place.raymill("doctor", "--address", place.record.dashboard, "--json", code=None)
    findings = {item["check"]: item for item in json.loads(done.stdout)}
    assert findings["authentication"]["state"] == "ok"
    assert findings["ray version"]["state"] == "ok"
    assert findings["nodes"]["found"] == "2 alive"
    assert [item for check, item in findings.items() if check.startswith("ports") and item["state"] != "ok"] == []


def status(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.raymill("cluster", "status", "--json").stdout)
    return found


def wait_for_nodes(place: Place, count: int) -> dict[str, Any]:
    """The status once the cluster takes so many nodes for alive."""
    deadline = time.monotonic() + 60
    while len((found := status(place))["nodes"]) != count:
        assert time.monotonic() < deadline, found
    return found


def test_status_shows_nodes_resources_jobs_serving_and_versions(place: Place) -> None:
    job = json.loads(place.raymill("submit", "small.yaml", "--follow", "--yes", "--json").stdout)["job"]
    found = status(place)
    shown = {node["node"]: node["head"] for node in found["nodes"]}
    assert shown == {node.name: "yes" if node.group == HEAD else "" for node in place.record.nodes}
    assert {node["CPU"].partition("/")[2] for node in found["nodes"]} == {"2"}
    assert {"job": job, "status": "SUCCEEDED", "recipe": "small"} in found["jobs"]
    assert found["serving"] == []
    assert found["versions"]["ray"] == dict.fromkeys(("there", "here"), version("ray"))
    text = place.raymill("cluster", "status").stdout
    assert f"Ray {version('ray')}, Python {platform.python_version()}\n" in text
    assert all(node.name in text for node in place.record.nodes)
    assert job in text
    assert "nothing is served" in text


def test_a_group_is_scaled_within_bounds_and_a_dead_node_is_replaced(place: Place) -> None:
    assert place.raymill("cluster", "scale", "workers", "2:3").stdout == "workers: 1 -> 2 nodes (bounds 2:3)\n"
    found = wait_for_nodes(place, 3)
    assert (found["scale"], found["dead"]) == ([2, 3], [])
    lost = next(node for node in place.record.workers if node.name == "worker-2")
    local_cluster.end_node(lost)
    found = wait_for_nodes(place, 2)
    assert found["dead"] == ["worker-2"]
    assert "node worker-2 has ended" in place.raymill("cluster", "status").stdout
    assert place.raymill("cluster", "scale", "workers", "2").stdout == "workers: 1 -> 2 nodes (bounds 2:2)\n"
    assert wait_for_nodes(place, 3)["dead"] == []
    assert place.raymill("cluster", "scale", "workers", "0:1").stdout == "workers: 2 -> 1 nodes (bounds 0:1)\n"
    wait_for_nodes(place, 2)


def test_a_cluster_with_a_job_is_not_ended_unasked(place: Place) -> None:
    job = json.loads(
        place.raymill("submit", "small.yaml", "--driver-cpus", "64", "--set", "name=kept", "--json").stdout
    )
    refused = place.raymill("cluster", "down", code=2)
    assert "jobs run there: " in refused.stderr
    assert job["job"] in refused.stderr
    assert all(local_cluster.alive(node) for node in place.record.nodes)


HELD = """
name: held
corpus: {sources: [{kind: text, path: words, licence: MIT}]}
curate: {language: [], quality: [], repetition: null, filters: ["holding:passes"]}
"""
HOLDING = """
import pathlib
import time


def passes(document):
    while not pathlib.Path(GATE).exists():
        time.sleep(0.1)
    return True
"""


def test_ctrl_c_detaches_and_what_is_stopped_goes_on_from_what_is_published(place: Place) -> None:
    """A job whose own code, which travelled with it, holds it in its second stage."""
    held, gate = Place(place.folder.with_name("held")), place.folder.with_name("gate")
    shutil.copytree(place.folder / "words", held.folder / "words")
    (held.folder / "held.yaml").write_text(HELD)
    (held.folder / "holding.py").write_text(HOLDING.replace("GATE", repr(str(gate))))
    command = [sys.executable, "-m", "pipelines.cli", "submit", "held.yaml", "--follow", "--yes"]
    follower = subprocess.Popen(command, cwd=held.folder, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert follower.stderr is not None
    assert any(line.startswith("[curate]") for line in follower.stderr)
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "goes on: raymill jobs logs raymill-held-" in said
    rows = {row["recipe"]: row["status"] for row in json.loads(place.raymill("jobs", "list", "--json").stdout)}
    assert rows["held"] == "RUNNING"
    attached = held.raymill("submit", "held.yaml", "--yes", "--env", "A=1", "--json")
    assert json.loads(attached.stdout)["new"] is False
    assert "other variables than asked for now: A; to change them, stop it first" in attached.stderr
    assert "STOPPED" in held.raymill("jobs", "stop", "held").stdout
    gate.touch()
    done = json.loads(held.raymill("submit", "held.yaml", "--follow", "--yes", "--json").stdout)
    assert (done["job"], done["new"], done["exit_code"]) == (f"{done['run']}-2", True, 0)
    store = LocalStore(held.folder / "raymill-store")
    record = read_job(store, done["run"])
    assert record is not None and (record.attempt, record.earlier[0].state) == (2, "stopped")
    stages = json.loads(store.read(record.run))["stages"]
    assert [(stage["stage"], stage["state"]) for stage in stages] == [("corpus", "cached"), ("curate", "made")]


def test_following_a_real_job_survives_connections_that_are_reset(place: Place) -> None:
    """Between the follower and Ray's dashboard every connection is reset after some bytes; no line is lost or twice."""
    lines = 400
    code = (
        "import time\n"
        f"for number in range({lines}):\n"
        "    print('line', number, 'x' * 40, flush=True)\n"
        "    time.sleep(0.01)\n"
        "raise SystemExit(7)\n"
    )
    direct = JobsClient.open(place.record.dashboard)
    token = Path(place.record.token_file).read_text()
    job, _ = direct.submit(Submission("followed", "name: followed\n", "none", ("python", "-c", code)))
    notices: list[str] = []
    with resetting(
        place.record.dashboard, itertools.chain([300, 0, 2_000, 900, 9_000], itertools.repeat(1 << 30))
    ) as cuts:
        client = JobsClient(cuts.url, token)
        said = "".join(client.follow(job.id, notices.append))
    own = [line for line in said.splitlines() if line.startswith("line ")]
    assert own == [f"line {number} {'x' * 40}" for number in range(lines)]
    assert cuts.resets >= 4
    assert "connected again" in notices
    ended = direct.job(job.id)
    assert ended is not None and (ended.status, ended.code) == ("FAILED", 7)
