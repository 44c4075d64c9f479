"""For tests of training on a real Ray: its inputs, a driver that may be killed, and what two runs have in common."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from cluster.artifact import Artifact, list_artifacts
from cluster.config import StrictModel
from cluster.progress import Progress
from cluster.stage import Result, Stage, execute, identify
from cluster.store import Store, open_store
from pipelines.tokens.config import TOKENIZER_STAGE, TOKENS_STAGE, TokenizerConfig, TokensConfig

LIMIT_S = 400.0
"""A driver and its workers start and end within it on two busy cores; nothing waits for it where all is well."""

STEPS = 240
CONFIG: dict[str, Any] = {
    "hidden": 64,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "intermediate": 96,
    "steps": STEPS,
    "batch_sequences": 6,
    "learning_rate": 3e-3,
    "validation_sequences": 8,
    "checkpoint_every_steps": 20,
    "workers": 2,
}
GENTLE = CONFIG | {"learning_rate": 1e-3}
"""For runs that go on under another layout: their losses stay within 2e-6. At three times the rate differences in
rounding grow to 5e-5 in 240 steps, as they do in one process whose micro-batches have another size."""


class Inputs(NamedTuple):
    """Published inputs of pretraining."""

    store: Store
    tokens: Artifact
    tokenizer: Artifact
    corpus: Artifact


class Uninterrupted(NamedTuple):
    """A run that nothing happened to, and what it read; its store has both."""

    inputs: Inputs
    artifact: Artifact

    def fresh_store(self, folder: Path) -> Store:
        """Another store with the inputs only."""
        store = open_store(folder)
        copy_inputs(self.inputs, store)
        return store

    def assert_same(self, store: Store) -> None:
        """What was trained in a store has these losses and weights, bit for bit."""
        assert_same_run(store, artifact_of(store), self.inputs.store, self.artifact)


def run(stage: Stage, config: StrictModel, inputs: dict[str, Artifact], store: Store) -> Result:
    identity = identify(stage, config, {role: each.fingerprint for role, each in inputs.items()})
    with Progress().track(stage.name) as tracker:
        return execute(stage, identity, config, inputs, store, tracker)


def publish_inputs(store: Store, rows: list[dict[str, str]], publish: Callable[..., Artifact]) -> Inputs:
    """A corpus, a tokenizer and tokens; a Ray is connected to."""
    corpus = publish(store, rows)
    tokenizer = run(TOKENIZER_STAGE, TokenizerConfig(vocab_size=600), {"corpus": corpus}, store).artifact
    both = {"corpus": corpus, "tokenizer": tokenizer}
    tokens = run(TOKENS_STAGE, TokensConfig(sequence_length=48), both, store).artifact
    return Inputs(store, tokens, tokenizer, corpus)


def copy_inputs(inputs: Inputs, target: Store) -> None:
    """The same inputs in another store: the same identity, and none of what was trained from them."""
    for artifact in (inputs.tokens, inputs.tokenizer, inputs.corpus):
        for item in inputs.store.files(f"{artifact.id}/"):
            target.write(item.key, inputs.store.read(item.key))


def records(store: Store, artifact: Artifact, kind: str = "train") -> dict[int, float]:
    lines = store.read(artifact.key("metrics.jsonl")).decode().splitlines()
    return {each["step"]: each["loss"] for each in map(json.loads, lines) if each["kind"] == kind}


SCRIPT = """
import json, sys
from cluster.artifact import load_artifact
from cluster.progress import Progress
from cluster.session import ClusterConfig, connect
from cluster.stage import execute, identify
from cluster.store import open_store
from pipelines import cli
from pipelines.pretrain import STAGE, PretrainConfig

def train(arguments):
    store = open_store(sys.argv[1])
    inputs = {"tokens": load_artifact(store, sys.argv[2]), "tokenizer": load_artifact(store, sys.argv[3])}
    config = PretrainConfig(**json.loads(sys.argv[4]))
    identity = identify(STAGE, config, {role: each.fingerprint for role, each in inputs.items()})
    with connect(ClusterConfig(address=sys.argv[5])), Progress().track("pretrain") as tracker:
        print(execute(STAGE, identity, config, inputs, store, tracker).artifact.id)
    return 0

cli.COMMANDS = (cli.Command("train", "run the stage", "__main__:train", lambda parser: None),)
sys.exit(cli.run_command(["train"]))
"""
"""The stage as a command: what a user reads and the exit code are those of the command line."""


@contextmanager
def driver(
    store: Store,
    inputs: Inputs,
    config: dict[str, Any],
    log: Path,
    *,
    address: str = "local",
    environment: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
) -> Iterator[psutil.Popen]:
    """A process of its own that runs the stage; it and everything it started are gone at the end.

    Args:
        within: a command to put before it; it becomes the command given to it.
    """
    arguments = [store.url, inputs.tokens.id, inputs.tokenizer.id, json.dumps(config), address]
    command = [*within, sys.executable, "-c", SCRIPT, *arguments]
    with log.open("w") as output:
        process = psutil.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        yield process
    finally:
        group = [each for each in psutil.process_iter(["pid"]) if session_of(each.pid) == process.pid]
        for each in group:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs([process, *group], timeout=10)


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def end_well(process: psutil.Popen, log: Path) -> str:
    """What the driver said, once it ended without an error."""
    status = process.wait(timeout=LIMIT_S)
    assert status == 0, log.read_text()[-3000:]
    return log.read_text()


def journal_lines(store: Store) -> list[dict[str, Any]]:
    """What ran so far in a local store, in the order written."""
    root = Path(store.url)
    lines = [
        line
        for path in sorted(root.glob("Model/*/*/resume/train/journal/*.jsonl"), key=lambda path: path.stat().st_mtime)
        for line in path.read_text().split("\n")[:-1]
    ]
    return [json.loads(line) for line in lines if line]


def wait_until(condition: Callable[[], bool], process: psutil.Popen, log: Path, limit_s: float = LIMIT_S) -> None:
    """Return when something is so; fail where the driver ends before, or after a long time."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < limit, f"this never came\n{log.read_text()[-3000:]}"
        time.sleep(0.02)


def wait_for_step(process: psutil.Popen, store: Store, step: int, log: Path) -> None:
    """Return when the workers took a step."""

    def reached() -> bool:
        return any(each["kind"] == "train" and each["step"] >= step for each in journal_lines(store))

    wait_until(reached, process, log)


def workers_of(process: psutil.Popen) -> list[psutil.Process]:
    found = []
    for each in psutil.process_iter(["pid", "cmdline"]):
        if session_of(each.pid) == process.pid and "RayTrainWorker" in " ".join(each.info["cmdline"] or []):
            found.append(each)
    return found


def artifact_of(store: Store) -> Artifact:
    (artifact,) = list_artifacts(store, "Model")
    return artifact


def assert_same_run(store: Store, artifact: Artifact, reference_store: Store, reference: Artifact) -> None:
    """Losses and weights of two runs are the same, bit for bit."""
    for kind in ("train", "validation"):
        assert records(store, artifact, kind) == records(reference_store, reference, kind)
    weights = [
        next(entry.sha256 for entry in each.files if entry.path == "model.safetensors")
        for each in (artifact, reference)
    ]
    assert weights[0] == weights[1]


def starts(store: Store, artifact: Artifact) -> list[dict[str, Any]]:
    """The records of a published run's starts."""
    lines = map(json.loads, store.read(artifact.key("metrics.jsonl")).decode().splitlines())
    return [each for each in lines if each["kind"] == "start"]


def wait_for_restart(process: psutil.Popen, store: Store, log: Path) -> None:
    """Return when the workers started a second time."""
    wait_until(lambda: len([each for each in journal_lines(store) if each["kind"] == "start"]) > 1, process, log)


def list_models(store: Store) -> list[Artifact]:
    return list_artifacts(store, "Model")
