"""The demo, shrunken, with everything real: Ray, torch, peft, lm-eval, Serve and vLLM, from raw text to answers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, find_artifact, list_artifacts, read_json, verify_artifact
from cluster.store import Store, StoredFile
from cluster.store_local import LocalStore
from pipelines.recipe import load_recipe

pytestmark = pytest.mark.timeout(600)  # the first test waits for five runs of the command

SHRUNKEN = {
    "corpus.sources.0.max_bytes": "1_500_000",
    "tokenizer.vocab_size": "1024",
    "tokens.sequence_length": "128",
    "pretrain.tokens": "null",
    "pretrain.steps": "60",
    "pretrain.checkpoint_every_steps": "5",
    "finetune.steps": "6",
    "evals.limit": "2",
    "evals.heldout_tokens": "2000",
    "serving.port": "0",
}
MARK = "RAYMILL_TEST_RUN"
STOP_SECONDS = 12.0
"""Ctrl-C is answered within ten seconds; the rest is for a loaded machine."""

Demo = tuple[LocalStore, dict[str, Any], str]


@dataclass
class Run:
    """A `raymill` process whose descendants, however far away, can be told by a mark in their environment."""

    process: subprocess.Popen[str]
    mark: str

    @classmethod
    def start(cls, store: Path | str, *arguments: str, command: str = "run", **changes: str) -> Run:
        mark = uuid.uuid4().hex
        overrides = [f"--set={key}={value}" for key, value in (SHRUNKEN | changes).items()]
        raymill = [sys.executable, "-m", "pipelines.cli", command, "demo.yaml", "--store", str(store), *overrides]
        process = subprocess.Popen(
            [*raymill, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {MARK: mark},
            start_new_session=True,
        )
        return cls(process, mark)

    def finish(self, timeout_s: float = 600) -> tuple[int, str, str]:
        """Wait for the end: exit code, standard output, standard error."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    def left_behind(self) -> list[str]:
        """Command lines of processes of this run that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
            except (OSError, UnicodeDecodeError):  # it ended while we looked
                continue
        return found

    def wait_until_gone(self, seconds: float) -> list[str]:
        """Give the last processes a moment to end; those that did not."""
        deadline = time.monotonic() + seconds
        while (left := self.left_behind()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


def test_the_shrunken_demo_is_a_recipe() -> None:
    recipe = load_recipe("demo.yaml", [f"{key}={value}" for key, value in SHRUNKEN.items()])
    assert recipe.pretrain.steps == 60


@dataclass(frozen=True)
class Stopped:
    """What is there after Ctrl-C.

    Attributes:
        left: command lines of processes that outlived it by five seconds.
        artifacts: what is published.
        strays: keys of files that belong to nothing published.
    """

    code: int
    out: str
    err: str
    left: list[str]
    artifacts: list[Artifact]
    strays: list[str]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalStore, dict[str, Stopped]]:
    """The same command four times, each time ended by Ctrl-C one stage later: the store, and each stage's outcome."""
    store = LocalStore(tmp_path_factory.mktemp("demo") / "store")
    outcomes = {}
    for stage in ("corpus", "curate", "tokens", "pretrain"):
        run = Run.start(store.url, "--json")
        assert run.process.stderr is not None
        if stage == "pretrain":
            _wait_for(lambda: _checkpointed(store), run)
        else:
            for line in run.process.stderr:  # the stage's first line: it has just begun
                if line.startswith(f"[{stage}]"):
                    break
        run.process.send_signal(signal.SIGINT)
        code, out, err = run.finish(STOP_SECONDS)
        left, artifacts = run.wait_until_gone(5), list_artifacts(store)
        named = {artifact.data_prefix for artifact in artifacts}
        strays = [
            item.key for item in store.files() if not item.key.endswith("artifact.json") and _folder(item) not in named
        ]
        outcomes[stage] = Stopped(code, out, err, left, artifacts, strays)
    return store, outcomes


def _folder(item: StoredFile) -> str:
    """The attempt's folder that a file of a store belongs to."""
    return "/".join(item.key.split("/")[:3])


@pytest.fixture(scope="module")
def demo(interrupted: tuple[LocalStore, dict[str, Stopped]]) -> Demo:
    """The same command once more, to its end: the store, the run's record, and what it said."""
    store, _ = interrupted
    run = Run.start(store.url, "--json")
    code, out, err = run.finish()
    assert code == 0, err[-6000:]
    assert run.wait_until_gone(5) == []
    return store, json.loads(out), err


def newest(store: LocalStore, name: str) -> Artifact:
    return find_artifact(store, name)


real = pytest.mark.vllm  # and Ray: everything below runs the whole thing


@real
@pytest.mark.parametrize("stage", ["corpus", "curate", "tokens", "pretrain"])
def test_ctrl_c_in_any_stage_leaves_what_was_done(
    interrupted: tuple[LocalStore, dict[str, Stopped]], stage: str
) -> None:
    store, outcomes = interrupted
    stopped = outcomes[stage]
    assert stopped.code == 130, stopped.err
    assert "Traceback" not in stopped.err
    assert "repeat the command to continue" in stopped.err
    assert stopped.out == ""
    assert stopped.left == []
    before = ["corpus", "curate", "tokenizer", "tokens", "pretrain"]
    assert sorted(artifact.name for artifact in stopped.artifacts) == sorted(before[: before.index(stage)])
    for artifact in stopped.artifacts:
        assert verify_artifact(store, artifact) == []
    assert all("/resume/" in key for key in stopped.strays)  # what the next run continues from
    assert stopped.strays or stage != "pretrain"


@real
def test_the_run_continues_where_it_was_interrupted(demo: Demo) -> None:
    store, _, err = demo
    assert "continues at step" in err
    model = newest(store, "pretrain")
    assert not any("/resume/" in item.key for item in store.files(f"{model.id}/"))
    steps = [json.loads(line) for line in store.read(model.key("metrics.jsonl")).splitlines()]
    assert [each["step"] for each in steps if each["kind"] == "train"] == list(range(1, 61))


@real
def test_every_stage_ran_once_in_order(demo: Demo) -> None:
    store, record, _ = demo
    names = [stage["stage"] for stage in record["stages"]]
    assert names == [
        "corpus",
        "curate",
        "tokenizer",
        "tokens",
        "pretrain",
        "finetune",
        "evals-pretrain",
        "evals-finetune",
        "serving",
    ]
    assert [stage["state"] for stage in record["stages"]] == ["cached"] * 4 + ["made"] * 4 + ["ran"]
    for artifact in list_artifacts(store):
        assert verify_artifact(store, artifact) == []


@real
def test_the_funnel_adds_up_and_personal_data_is_gone(demo: Demo) -> None:
    import pyarrow.parquet as pq

    store, _, _ = demo
    curated, raw = newest(store, "curate"), newest(store, "corpus")
    funnel = read_json(store, curated, "funnel.json")
    assert funnel["documents_in"] == raw.counts["documents"]
    assert funnel["documents_in"] == funnel["kept"] + sum(funnel["dropped"].values())
    assert any("minhash" in reason or "near" in reason for reason in funnel["dropped"])  # licence texts guarantee some
    tables = [
        pq.read_table(store.local_path(curated.key(entry.path)), columns=["id", "text"])
        for entry in curated.files
        if entry.path.startswith(("train/", "validation/"))
    ]
    texts = [text for table in tables for text in table["text"].to_pylist()]
    assert len(texts) == funnel["kept"]
    address = re.compile(r"\b[\w.+-]+@[\w-]+\.(?:com|org|net|edu)\b")
    assert [found.group() for text in texts if (found := address.search(text))] == []
    assert any("<EMAIL>" in text for text in texts)


@real
def test_training_learned_and_the_adapter_is_small(demo: Demo) -> None:
    store, _, _ = demo
    model, adapter = newest(store, "pretrain"), newest(store, "finetune")
    records = [json.loads(line) for line in store.read(model.key("metrics.jsonl")).splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] - 0.5
    sizes = {entry.path: entry.size_bytes for entry in (*model.files, *adapter.files)}
    assert sizes["adapter_model.safetensors"] < sizes["model.safetensors"]


@real
def test_scores_are_named_sample_and_both_models_have_them(demo: Demo) -> None:
    store, _, _ = demo
    for name in ("evals-pretrain", "evals-finetune"):
        report = newest(store, name)
        results = read_json(store, report, "results.json")
        assert results["benchmarks"] == "sample"
        for metric in ("arc_easy.acc", "arc_challenge.acc", "mmlu.acc", "truthfulqa_mc1.acc", "truthfulqa_mc2.acc"):
            assert 0 <= report.metrics[metric] <= 1
        html = store.read(report.key("report.html")).decode()
        assert "arc_easy (sample)" in html
        assert report.metrics["heldout.unigram_ratio"] > 0


@real
def test_traffic_was_split_stayed_put_and_moved(demo: Demo) -> None:
    _, record, err = demo
    assert len(record["serving"]) == 5
    assert set(record["serving"].values()) == {True}, record["serving"]
    metrics = record["stages"][-1]["metrics"]
    assert metrics["serving.requests"] >= 200
    assert metrics["serving.failed"] == 0
    assert metrics["serving.sticky_violations"] == 0
    assert metrics["serving.moved_users"] > 0
    assert "split at weights base 90 / tuned 10" in err
    assert "weights changed to base 0 / tuned 100" in err


@real
def test_every_report_is_linked_and_there(demo: Demo) -> None:
    _, record, _ = demo
    index = Path(record["index"])
    links = re.findall(r'href="([^"]+)"', index.read_text(encoding="utf-8"))
    assert len(links) == 9
    for link in links:
        page = (index.parent / link).read_text(encoding="utf-8")
        assert "<svg" in page or "<table" in page


@real
def test_lineage_of_the_tuned_model_reaches_sources_and_licences(demo: Demo) -> None:
    store, _, _ = demo
    command = [sys.executable, "-m", "pipelines.cli", "show", "finetune", "--store", store.url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("pretrain", "tokens", "tokenizer", "curate", "corpus"):
        assert f"/{name}-" in shown
    assert "kind python-docs" in shown
    assert "PSF-2.0" in shown


@real
def test_second_run_makes_nothing_anew(demo: Demo) -> None:
    store, _, _ = demo
    before = {artifact.id: artifact.attempt for artifact in list_artifacts(store)}
    code, out, err = Run.start(Path(store.url), "--until", "evals", "--json").finish()
    assert code == 0, err
    assert {stage["state"] for stage in json.loads(out)["stages"]} == {"cached"}
    assert "embedded Ray" not in err  # nothing had to run, so nothing was started
    assert {artifact.id: artifact.attempt for artifact in list_artifacts(store)} == before


@real
@pytest.mark.slow
def test_cached_model_that_vllm_refuses_is_one_message(demo: Demo, tmp_path: Path) -> None:
    """A copy of the model whose configuration asks for something vLLM cannot do."""
    import shutil

    store, _, _ = demo
    model = newest(store, "pretrain")
    broken = tmp_path / "broken"
    shutil.copytree(store.local_path(model.data_prefix), broken)
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    config["architectures"], config["model_type"] = ["NoSuchArchitecture"], "nosuch"
    (broken / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mark = uuid.uuid4().hex
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "serve",
        str(broken),
        "--port",
        "0",
        "--store",
        str(tmp_path / "s"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {MARK: mark}
    )
    run = Run(process, mark)
    code, _, err = run.finish(240)
    assert code == 2, err
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    assert "error: serving: variant a" in err
    assert "vLLM refuses the model" in err and "nosuch" in err
    assert run.wait_until_gone(5) == []


@real
@pytest.mark.slow
def test_serve_stays_up_at_the_recipes_weights_until_ctrl_c(demo: Demo) -> None:
    import openai

    store, _, _ = demo
    run = Run.start(Path(store.url), command="serve")
    assert run.process.stdout is not None
    line = run.process.stdout.readline()  # printed when everything answers
    address = re.search(r"at (http://\S+/v1) \(", line)
    assert address, line + run.finish()[2]
    client = openai.OpenAI(base_url=address[1], api_key="none", max_retries=0)
    variants = set()
    for number in range(40):
        answer = client.chat.completions.with_raw_response.create(
            model="docs-assistant",
            messages=[{"role": "user", "content": "What does it do?"}],
            max_tokens=4,
            user=f"user-{number:04d}",
        )
        variants.add(answer.headers["X-Raymill-Variant"])
    assert variants == {"base", "tuned"}
    run.process.send_signal(signal.SIGINT)
    code, _, err = run.finish(STOP_SECONDS)
    assert code == 130, err
    assert "Traceback" not in err
    assert run.wait_until_gone(1) == []


def _wait_for(condition: Callable[[], bool], run: Run, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert run.process.poll() is None, run.finish()[2]
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.1)


def _checkpointed(store: LocalStore) -> bool:
    return any("/resume/" in item.key and item.key.endswith("/complete.json") for item in store.files("Model/"))


@real
@pytest.mark.slow  # beside tests/pipelines/test_train_on_ray.py, which kills workers and drivers too
def test_a_run_that_is_killed_in_the_middle_continues(demo: Demo) -> None:
    store, _, _ = demo
    changes = {"pretrain.seed": "9"}
    models = len(list_artifacts(store, "Model"))
    run = Run.start(Path(store.url), "--until", "pretrain", **changes)
    _wait_for(lambda: _checkpointed(store), run)
    run.process.kill()
    code, _, err = run.finish(STOP_SECONDS)
    assert code == -signal.SIGKILL, err
    assert "Traceback" not in err
    assert run.wait_until_gone(20) == []
    assert len(list_artifacts(store, "Model")) == models

    again = Run.start(Path(store.url), "--until", "pretrain", "--json", **changes)
    code, out, err = again.finish()
    assert code == 0, err[-4000:]
    assert "continues at step" in err, err
    line = json.loads(out)["stages"][-1]
    artifact = newest(store, "pretrain")
    assert line["artifact_id"] == artifact.id
    assert verify_artifact(store, artifact) == []
    assert not any("/resume/" in item.key for item in store.files(f"{artifact.id}/"))


@real
def test_the_same_bytes_in_an_s3_store(demo: Demo, s3_store: Store) -> None:
    """Everything that is deterministic has the checksums it has in a local folder, and is reused on a second run."""
    local, _, _ = demo
    run = Run.start(s3_store.url, "--until", "tokens", "--json")
    code, out, err = run.finish()
    assert code == 0, err
    assert run.wait_until_gone(1) == []
    assert [line["state"] for line in json.loads(out)["stages"]] == ["made"] * 4
    artifacts = list_artifacts(s3_store)
    assert len(artifacts) == 4
    for artifact in artifacts:
        assert verify_artifact(s3_store, artifact) == []
        assert _checksums(artifact) == _checksums(find_artifact(local, artifact.id))
    code, out, err = Run.start(s3_store.url, "--until", "tokens", "--json").finish()
    assert code == 0, err
    assert {line["state"] for line in json.loads(out)["stages"]} == {"cached"}


def _checksums(artifact: Artifact) -> dict[str, str]:
    """Path -> SHA-256 of the artifact's data (reports say how long things took)."""
    return {entry.path: entry.sha256 for entry in artifact.files if entry.path != "report.html"}
