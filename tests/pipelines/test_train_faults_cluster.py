"""What a run on several nodes loses when one of them dies: nothing; an elastic one goes on with those that are left."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.pipelines.train_driver import (
    GENTLE,
    LIMIT_S,
    STEPS,
    Uninterrupted,
    artifact_of,
    driver,
    end_well,
    records,
    starts,
    wait_for_step,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]

LAST = STEPS - 80

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
common = {"num_gpus": 0, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0, "include_dashboard": False})
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    node = cluster.add_node(num_cpus=1, **common)
    print(json.dumps(node.all_processes["raylet"][0].process.pid), flush=True)
cluster.shutdown()
"""
"""A Ray of a head without CPUs and nodes of one CPU each, so that every worker has a node of its own."""


class Nodes:
    """A Ray of several nodes on this machine; a node dies with every process that it has."""

    def __init__(self) -> None:
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            # Ray's word for a node that is gone comes within seconds, and not for one that is only busy.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "20000",
        }
        self._process = psutil.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            text=True,
        )
        self.address: str = self._answer()
        self._raylets: list[int] = []

    def add(self) -> None:
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        self._raylets.append(self._answer())

    def kill_one_that_trains(self, draw: random.Random, of: int) -> None:
        """Kill one of the ``of`` nodes that a training worker is on, with all its processes."""
        families = self._training()
        assert len(families) == of
        family = draw.choice(families)
        for each in family:
            each.kill()
        psutil.wait_procs(family, timeout=60)

    def _training(self) -> list[list[psutil.Process]]:
        found = []
        for pid in self._raylets:
            raylet = psutil.Process(pid)
            children = raylet.children(recursive=True)
            if any("RayTrainWorker" in " ".join(each.cmdline()) for each in children):
                found.append([raylet, *children])
        return found

    def _answer(self) -> object:
        line = self._process.stdout.readline()
        assert line, "Ray did not start"
        return json.loads(line)

    def close(self) -> None:
        everything = self._process.children(recursive=True)
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except psutil.TimeoutExpired:
            self._process.kill()
        _, left = psutil.wait_procs(everything, timeout=10)
        for each in left:
            each.kill()
        psutil.wait_procs([self._process, *left], timeout=10)


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    made = Nodes()
    try:
        for _ in range(count):
            made.add()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_node_killed_at_a_random_step_changes_no_bit(uninterrupted: Uninterrupted, tmp_path: Path, seed: int) -> None:
    """Another node takes its place."""
    draw = random.Random(seed)
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "log"
    with (
        nodes(3) as made,
        driver(store, uninterrupted.inputs, GENTLE, log, address=made.address, environment=made.environment) as process,
    ):
        wait_for_step(process, store, draw.randrange(1, LAST), log)
        made.kill_one_that_trains(draw, of=2)
        end_well(process, log)
    uninterrupted.assert_same(store)
    assert [each["workers"] for each in starts(store, artifact_of(store))] == [2, 2]


def test_an_elastic_run_begins_below_its_maximum_and_goes_on_with_the_nodes_that_are_left(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    draw = random.Random(3)
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "log"
    elastic = GENTLE | {"workers": 1, "max_workers": 3}
    with (
        nodes(2) as made,
        driver(
            store, uninterrupted.inputs, elastic, log, address=made.address, environment=made.environment
        ) as process,
    ):
        wait_for_step(process, store, draw.randrange(1, LAST), log)
        made.kill_one_that_trains(draw, of=2)
        end_well(process, log)
    artifact = artifact_of(store)
    assert artifact.id == uninterrupted.artifact.id
    assert [each["workers"] for each in starts(store, artifact)] == [2, 1]
    expected = records(uninterrupted.inputs.store, uninterrupted.artifact)
    assert records(store, artifact) == pytest.approx(expected, abs=1e-5)


def test_an_elastic_run_below_its_minimum_says_so_and_goes_on_when_a_node_comes(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    draw = random.Random(4)
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "log"
    elastic = GENTLE | {"workers": 2, "max_workers": 3}
    with (
        nodes(2) as made,
        driver(
            store, uninterrupted.inputs, elastic, log, address=made.address, environment=made.environment
        ) as process,
    ):
        wait_for_step(process, store, draw.randrange(1, LAST), log)
        made.kill_one_that_trains(draw, of=2)
        told = "2 workers need 2 CPUs, the cluster has 1: training waits for nodes"
        wait_until(lambda: told in log.read_text(), process, log)
        made.add()
        end_well(process, log)
    uninterrupted.assert_same(store)
    assert [each["workers"] for each in starts(store, artifact_of(store))] == [2, 2]
