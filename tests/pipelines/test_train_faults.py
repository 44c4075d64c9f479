"""What a run on a real Ray loses: nothing, whichever process, node, disk or server is lost, and at whatever step."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.artifact import Artifact
from cluster.store import Store, open_store
from pipelines.pretrain import STAGE, PretrainConfig
from tests.pipelines.train_driver import (
    CONFIG,
    STEPS,
    Inputs,
    artifact_of,
    assert_same_run,
    copy_inputs,
    driver,
    list_models,
    publish_inputs,
    records,
    run,
    starts,
    wait_for_restart,
    wait_for_step,
    wait_until,
    workers_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
common = {"num_gpus": 0, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, **common) for _ in range(int(sys.argv[1]))]
print(json.dumps([cluster.address, [each.all_processes["raylet"][0].process.pid for each in nodes]]), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
"""A Ray of a head without CPUs and nodes of one CPU each, so that every worker has a node of its own."""


@pytest.fixture(scope="module")
def inputs(training_ray: None, training_store: Store, corpus_rows: list[dict[str, str]], publish: Any) -> Inputs:
    return publish_inputs(training_store, corpus_rows[:60], publish)


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs) -> Artifact:
    both = {"tokens": inputs.tokens, "tokenizer": inputs.tokenizer}
    return run(STAGE, PretrainConfig(**CONFIG), both, inputs.store).artifact


def fresh_store(inputs: Inputs, tmp_path: Path) -> Store:
    store = open_store(tmp_path / "store")
    copy_inputs(inputs, store)
    return store


def end_well(process: psutil.Popen, log: Path) -> str:
    """What the driver said, once it ended without an error."""
    status = process.wait(timeout=280)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rank_and_a_driver_killed_at_random_steps_change_no_bit(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    of_rank, of_driver = (draw.randrange(1, STEPS - 30) for _ in range(2))
    store = fresh_store(inputs, tmp_path)
    log = tmp_path / "first.log"
    with driver(store, inputs, CONFIG, log) as process:
        wait_for_step(process, store, of_rank, log)
        victims = workers_of(process)
        assert len(victims) == 2
        draw.choice(victims).kill()
        wait_for_restart(process, store, log)
        wait_for_step(process, store, of_driver, log)
        process.kill()
        process.wait(timeout=10)
    assert list_models(store) == []
    with driver(store, inputs, CONFIG, tmp_path / "second.log") as process:
        end_well(process, tmp_path / "second.log")
    artifact = artifact_of(store)
    assert_same_run(store, artifact, inputs.store, undisturbed)


@pytest.mark.parametrize("harm", ["a bit", "half a file"])
def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_used(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path, harm: str
) -> None:
    store = fresh_store(inputs, tmp_path)
    log = tmp_path / "first.log"
    with driver(store, inputs, CONFIG, log) as process:
        wait_until(lambda: len(complete_checkpoints(tmp_path / "store")) > 1, process, log)
        process.kill()
        process.wait(timeout=10)
    *_, before, newest = complete_checkpoints(tmp_path / "store")
    part = max(newest.glob("*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(part.read_bytes())
    if harm == "a bit":
        data[len(data) // 2] ^= 1
    part.write_bytes(data if harm == "a bit" else data[: len(data) // 2])
    with driver(store, inputs, CONFIG, tmp_path / "second.log") as process:
        said = end_well(process, tmp_path / "second.log")
    assert f"{newest.name} is damaged and is not used: {part.name}" in said
    step = int(before.name.removeprefix("step-"))
    assert f"continues at step {step:,} of {STEPS:,}" in said
    artifact = artifact_of(store)
    assert [each["step"] for each in starts(store, artifact)] == [0, step]
    assert_same_run(store, artifact, inputs.store, undisturbed)


def complete_checkpoints(root: Path) -> list[Path]:
    """Folders of a run's complete checkpoints, by step."""
    found = root.glob("Model/*/*/resume/train/checkpoints/*/complete.json")
    return sorted((path.parent for path in found), key=lambda path: path.name)


class Nodes:
    """A Ray of several nodes on this machine; a node dies with every process that it has."""

    def __init__(self, count: int) -> None:
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            # Ray's word for a node that is gone comes within seconds.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
        }
        self._process = psutil.Popen(
            [sys.executable, "-c", CLUSTER, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            text=True,
        )
        self.address, self.raylets = json.loads(self._process.stdout.readline())

    def training(self) -> list[list[psutil.Process]]:
        """The processes of each node that a training worker is on; a raylet leads them."""
        found = []
        for pid in self.raylets:
            if psutil.pid_exists(pid):
                raylet = psutil.Process(pid)
                children = raylet.children(recursive=True)
                if any("RayTrainWorker" in " ".join(each.cmdline()) for each in children):
                    found.append([raylet, *children])
        return found

    def close(self) -> None:
        everything = self._process.children(recursive=True)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except psutil.TimeoutExpired:
            self._process.kill()
        _, left = psutil.wait_procs(everything, timeout=5)
        for each in left:
            each.kill()
        psutil.wait_procs([self._process, *left], timeout=10)


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    made = Nodes(count)
    try:
        yield made
    finally:
        made.close()


def kill_a_node(made: Nodes, draw: random.Random) -> None:
    families = made.training()
    assert len(families) == 2
    family = draw.choice(families)
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=10)


def test_a_node_killed_at_a_random_step_changes_no_bit(inputs: Inputs, undisturbed: Artifact, tmp_path: Path) -> None:
    """Another node takes its place."""
    draw = random.Random(4)
    store = fresh_store(inputs, tmp_path)
    log = tmp_path / "log"
    with (
        nodes(3) as made,
        driver(store, inputs, CONFIG, log, address=made.address, environment=made.environment) as process,
    ):
        wait_for_step(process, store, draw.randrange(20, STEPS - 30), log)
        kill_a_node(made, draw)
        end_well(process, log)
    artifact = artifact_of(store)
    assert_same_run(store, artifact, inputs.store, undisturbed)
    assert [each["workers"] for each in starts(store, artifact)] == [2, 2]


def test_an_elastic_run_goes_on_with_the_nodes_that_are_left(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path
) -> None:
    draw = random.Random(5)
    store = fresh_store(inputs, tmp_path)
    log = tmp_path / "log"
    elastic = CONFIG | {"workers": 1, "max_workers": 2}
    with (
        nodes(2) as made,
        driver(store, inputs, elastic, log, address=made.address, environment=made.environment) as process,
    ):
        wait_for_step(process, store, draw.randrange(STEPS - 80, STEPS - 30), log)
        kill_a_node(made, draw)
        end_well(process, log)
    artifact = artifact_of(store)
    assert artifact.id == undisturbed.id
    assert [each["workers"] for each in starts(store, artifact)] == [2, 1]
    assert records(store, artifact) == pytest.approx(records(inputs.store, undisturbed), abs=1e-5)


SMALL_DISK = 'mount -t tmpfs -o size=32m tmpfs "$0" && cp -a "$1/." "$0" && "${@:2}" && cp -a "$0/." "$1"'


def test_a_disk_that_fills_up_delays_nothing_but_checkpoints(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path
) -> None:
    """The store lies on a disk of its own, which is full for a while in the middle of the run."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    disk, around = tmp_path / "store", tmp_path / "before and after"
    disk.mkdir()
    copy_inputs(inputs, open_store(around))
    store, log = open_store(disk), tmp_path / "log"
    config = CONFIG | {"checkpoint_every_steps": 40}
    within = ["unshare", "-m", "bash", "-c", SMALL_DISK, str(disk), str(around)]
    with driver(store, inputs, config, log, within=within) as process:
        seen = Path(f"/proc/{process.pid}/root{disk}")
        wait_for_step(process, store, 45, log, seen)
        filler = seen / "filler"
        fill(filler)
        refused = [False]

        def told() -> bool:
            refused[0] = refused[0] or "could not be written" in log.read_text()
            return refused[0]

        wait_until(told, process, log)
        filler.unlink()
        said = end_well(process, log)
    assert "No space left on device; training goes on" in said
    store = open_store(around)
    assert_same_run(store, artifact_of(store), inputs.store, undisturbed)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


class RefusingServer:
    """An S3 server that takes nothing while it ``refuses``; reading goes on."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.refuses = False
        self.refused = 0
        app = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            if self.refuses and environ["REQUEST_METHOD"] in ("PUT", "POST"):
                self.refused += 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
            return app(environ, start_response)

        self._server = make_server("127.0.0.1", 0, answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_an_s3_server_that_refuses_writes_for_a_minute(
    inputs: Inputs, undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    server = RefusingServer()
    try:
        credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (credentials | {"AWS_ENDPOINT_URL": server.url, "HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)  # copies of inputs are cached below HOME
        boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket="refusing")
        store = open_store("s3://refusing/store")
        copy_inputs(inputs, store)
        log = tmp_path / "log"
        with driver(store, inputs, CONFIG | {"checkpoint_every_steps": 200}, log) as process:

            def begun() -> bool:
                return any("/journal/" in item.key for item in store.files("Model/"))

            wait_until(begun, process, log)
            server.refuses = True
            time.sleep(60)
            server.refuses = False
            said = end_well(process, log)
        assert server.refused > 5
        assert "could not be written" in said and "training goes on" in said
        assert_same_run(store, artifact_of(store), inputs.store, undisturbed)
    finally:
        server.close()
