"""The head of several real nodes is killed under a submitted run: it ends with the bytes of an undisturbed one.

The recipe is the demo, shrunken, as far as its pretrained model: three training workers on three nodes of two CPUs, of
which the run itself takes one. So training always spans nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import list_artifacts
from cluster.errors import InfraError
from cluster.jobs_api import JobsClient
from cluster.pending import view_of
from cluster.store_local import LocalStore
from tests.cluster.families import wait_for
from tests.cluster.real_nodes import HEAD, ROOT, WORKERS, Nodes, real_nodes, why_no_namespaces, why_no_redis

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
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
LIMIT_S = 300.0


@pytest.fixture(scope="module", autouse=True)
def needs() -> None:
    """Before anything is made."""
    if reason := why_no_namespaces() or why_no_redis():
        pytest.skip(reason)


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
def undisturbed(folder: Path) -> LocalStore:
    """The store of a run on an embedded Ray that nobody disturbs."""
    store = folder / "undisturbed"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", *RECIPE, "--store", str(store)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    kinds = {name.rpartition(".")[2] for name in checksums(LocalStore(store))}
    assert {"parquet", "safetensors", "json"} <= kinds
    return LocalStore(store)


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


Submit = Callable[..., Submitted]


@pytest.fixture
def submit(folder: Path, nodes: Nodes) -> Iterator[Submit]:
    """A function that submits the recipe, under a name, with a store of its own."""
    submitted: list[Submitted] = []

    def go(name: str) -> Submitted:
        store, log = folder / name, folder / f"{name}.log"
        words = ["submit", *RECIPE, "--no-code", "--store", str(store), "--address", nodes.dashboard]
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", *words, "--driver-cpus", "1", "--follow", "--yes", "--json"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN_PATH": str(nodes.token)},
            )
        submitted.append(Submitted(process, log, LocalStore(store)))
        return submitted[-1]

    yield go
    for each in submitted:  # only where a test failed there is something to end
        each.process.kill()
        each.process.communicate()


def test_the_head_is_killed(undisturbed: LocalStore, submit: Submit, nodes: Nodes) -> None:
    """Its state is in Redis: the run goes on without it, and so do those who follow when it is back."""
    run = submit("headless")
    run.wait_for_training()
    assert len(nodes.with_process(TRAINS)) > 1
    nodes.kill(HEAD)
    wait_for(lambda: "the job goes on" in run.said, "the follower's notice")
    nodes.start(HEAD)
    assert run.finish()["job"] == run_of(run)
    assert checksums(run.store) == checksums(undisturbed)


def run_of(submitted: Submitted) -> str:
    """The run's id, as the store knows it."""
    (name,) = submitted.store.folders("jobs")
    return name
