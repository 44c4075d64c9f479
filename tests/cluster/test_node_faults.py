"""Nodes die, links are cut and the head is killed under a submitted run: it ends with the bytes of an undisturbed one.

The recipe is the demo, shrunken, as far as its pretrained model: three training workers on three nodes of two CPUs, of
which the run itself takes one. So training always spans nodes, and has room without any one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import list_artifacts
from cluster.errors import InfraError
from cluster.job_record import list_jobs, read_log
from cluster.jobs_api import JobsClient
from cluster.pending import view_of
from cluster.store_local import LocalStore
from tests.cluster.families import wait_for
from tests.cluster.namespaces import ROOT, why_no_namespaces, why_no_redis
from tests.cluster.real_nodes import HEAD, WORKERS, Nodes, real_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3 * 400)]
SHRUNKEN = {
    "corpus.sources.0.max_bytes": "1_000_000",
    "tokenizer.vocab_size": "512",
    "tokens.sequence_length": "64",
    "pretrain.tokens": "null",
    "pretrain.steps": "240",
    "pretrain.batch_sequences": "6",
    "pretrain.workers": "3",
    "pretrain.checkpoint_every_steps": "20",
    "pretrain.validation_sequences": "6",
}
RECIPE = ["demo.yaml", "--until", "pretrain", *[f"--set={key}={value}" for key, value in SHRUNKEN.items()]]
DECIDED = (".parquet", ".safetensors", ".bin", "tokenizer.json")
"""Files of artifacts that the recipe and the texts alone decide; others have times in them."""

TRAINS = "RayTrainWorker"
RUNS = "-m pipelines.cli run"
LIMIT_S = 400.0
"""Each wait ends within it on two cores that much else keeps busy; where all is well none lasts as long."""


@pytest.fixture(scope="module", autouse=True)
def needs() -> Iterator[None]:
    """Before anything is made: what it needs is there, and no proxy is between the nodes."""
    if reason := why_no_namespaces() or why_no_redis():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the stores and logs."""
    return tmp_path_factory.mktemp("faults")


def checksums(store: LocalStore) -> dict[str, str]:
    """Every file of every artifact that the recipe alone decides."""
    return {
        f"{artifact.id}/{entry.path}": entry.sha256
        for artifact in list_artifacts(store)
        for entry in artifact.files
        if entry.path.endswith(DECIDED)
    }


@pytest.fixture(scope="module")
def kept_nodes() -> Iterator[Nodes]:
    with real_nodes() as made:
        yield made


@pytest.fixture
def nodes(kept_nodes: Nodes) -> Nodes:
    """All of them, whatever the test before did to them."""
    kept_nodes.repair()
    wait_for(lambda: living(kept_nodes) == {HEAD, *WORKERS}, "all nodes")
    return kept_nodes


def living(nodes: Nodes) -> set[str]:
    """The nodes that the cluster takes for alive; none where it does not answer yet."""
    try:
        return {node.name for node in view_of(JobsClient(nodes.dashboard, nodes.token.read_text())).nodes}
    except InfraError:
        return set()


@dataclass
class Submitted:
    """`raymill submit --follow` at work."""

    process: subprocess.Popen[str]
    log: Path
    store: LocalStore

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def id(self) -> str:
        """The run's, as the store knows it."""
        (record,) = list_jobs(self.store)
        return record.id

    def log_of(self, attempt: int) -> str:
        """What an attempt said, from the store."""
        return read_log(self.store, self.id, attempt)[0]

    def wait_for_training(self) -> None:
        """Return when a checkpoint can be continued from."""

        def has_checkpoint() -> bool:
            assert self.process.poll() is None, self.said
            return any(item.key.endswith("/complete.json") for item in self.store.files("Model/"))

        wait_for(has_checkpoint, f"a checkpoint, see {self.log}", LIMIT_S)

    def finish(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, self.said
        found: dict[str, Any] = json.loads(out)
        return found


@contextmanager
def submitted(nodes: Nodes, store: Path) -> Iterator[Submitted]:
    """The recipe, submitted with a store of its own, and followed."""
    words = ["submit", *RECIPE, "--no-code", "--store", str(store), "--address", nodes.dashboard]
    log = store.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words, "--driver-cpus", "1", "--follow", "--yes", "--json"],
            cwd=store.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN_PATH": str(nodes.token)},
        )
    try:
        yield Submitted(process, log, LocalStore(store))
    finally:
        process.kill()  # only where a test failed there is something to end
        process.communicate()


@pytest.fixture(scope="module")
def undisturbed(kept_nodes: Nodes, folder: Path) -> LocalStore:
    """The store of a run on all the nodes, that nobody disturbs."""
    with submitted(kept_nodes, folder / "undisturbed") as run:
        run.wait_for_training()
        assert len(kept_nodes.with_process(TRAINS)) > 1
        assert run.finish()["job"] == run.id
    assert {name.partition("/")[0] for name in checksums(run.store)} == {"Corpus", "Tokenizer", "Tokens", "Model"}
    return run.store


@pytest.fixture
def trainless(undisturbed: LocalStore, folder: Path, request: pytest.FixtureRequest) -> Path:
    """A store with what the undisturbed one has, but for the model and the runs."""
    store = folder / request.node.name
    shutil.copytree(undisturbed.url, store, ignore=shutil.ignore_patterns("Model", "runs", "jobs"))
    return store


def test_a_node_is_killed(undisturbed: LocalStore, trainless: Path, nodes: Nodes) -> None:
    """The one with the run itself: the follower starts the next attempt, which continues."""
    with submitted(nodes, trainless) as run:
        run.wait_for_training()
        (lost,) = nodes.with_process(RUNS)
        nodes.kill(lost)
        assert run.finish()["job"] == f"{run.id}-2"
    assert "trying again" in run.said
    assert "continues at step" in run.log_of(2)
    assert checksums(run.store) == checksums(undisturbed)


def test_a_link_is_cut(undisturbed: LocalStore, trainless: Path, nodes: Nodes) -> None:
    """Of a node that trains and does not have the run itself: others take its place."""
    with submitted(nodes, trainless) as run:
        run.wait_for_training()
        lost = min(nodes.with_process(TRAINS) - nodes.with_process(RUNS))
        nodes.cut_off(lost)
        assert run.finish()["job"] == run.id
    wait_for(lambda: living(nodes) == {HEAD, *WORKERS} - {lost}, "the cluster's notice of the lost node")
    assert checksums(run.store) == checksums(undisturbed)


def test_the_link_of_the_run_itself_is_cut(undisturbed: LocalStore, trainless: Path, nodes: Nodes) -> None:
    """The next attempt takes its place; the first lives on, can write to the store, and ends when it sees the next."""
    with submitted(nodes, trainless) as run:
        run.wait_for_training()
        (lost,) = nodes.with_process(RUNS)
        nodes.cut_off(lost)
        wait_for(lambda: "trying again" in run.said, "the cluster's notice of the lost node", LIMIT_S)
        assert lost in nodes.with_process(RUNS)
        assert run.finish()["job"] == f"{run.id}-2"
    wait_for(lambda: lost not in nodes.with_process(RUNS), "the end of the attempt that is cut off")
    assert checksums(run.store) == checksums(undisturbed)


def test_the_head_is_killed(undisturbed: LocalStore, trainless: Path, nodes: Nodes) -> None:
    """Its state is in Redis: the run goes on without it, and so do those who follow when it is back."""
    with submitted(nodes, trainless) as run:
        run.wait_for_training()
        nodes.kill(HEAD)
        wait_for(lambda: "the job goes on" in run.said, "the follower's notice")
        nodes.start(HEAD)
        assert run.finish()["job"] == run.id
    assert "connected again" in run.said
    assert checksums(run.store) == checksums(undisturbed)
