"""What a run on a real Ray loses when a node dies: nothing, at whatever step."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
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
    publish_inputs,
    run,
    starts,
    wait_for_step,
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
