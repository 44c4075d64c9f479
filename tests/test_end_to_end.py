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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, find_artifact, list_artifacts, read_json, verify_artifact
from cluster.store import Store, StoredFile
from cluster.store_local import LocalStore
from pipelines.recipe import load_recipe

SHRUNKEN = {
    "corpus.sources.0.max_bytes": "1_500_000",
    "tokenizer.vocab_size": "1024",
    "tokens.sequence_length": "128",
    "pretrain.tokens": "null",
    "pretrain.steps": "30",
    "pretrain.checkpoint_every_steps": "10",
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
    assert recipe.pretrain.steps == 30


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """One whole run: its store, its record, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "store"
    run = Run.start(folder, "--json")
    code, out, err = run.finish()
    assert code == 0, err[-6000:]
    assert run.wait_until_gone(5) == []
    yield LocalStore(folder), json.loads(out), err


def newest(store: LocalStore, name: str) -> Artifact:
    return find_artifact(store, name)


real = pytest.mark.vllm  # and Ray: everything below runs the whole thing


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
    assert {stage["state"] for stage in record["stages"]} == {"made", "ran"}
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
    assert run.wait_until_gone(5) == []


@real
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
@pytest.mark.parametrize(
    "how",
    [
        # Slow beside tests/pipelines/test_train_on_ray.py, which kills workers and drivers too.
        pytest.param(signal.SIGKILL, id="killed", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, id="interrupted"),
    ],
)
def test_a_run_that_ends_in_the_middle_continues(demo: Demo, how: signal.Signals) -> None:
    store, _, _ = demo
    changes = {"pretrain.steps": "60", "pretrain.checkpoint_every_steps": "5", "pretrain.seed": str(int(how))}
    models = len(list_artifacts(store, "Model"))
    run = Run.start(Path(store.url), "--until", "pretrain", **changes)
    _wait_for(lambda: _checkpointed(store), run)
    run.process.send_signal(how)
    code, _, err = run.finish(STOP_SECONDS)
    assert code == (130 if how is signal.SIGINT else -how), err
    assert "Traceback" not in err
    assert run.wait_until_gone(20 if how is signal.SIGKILL else 1) == []
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


@pytest.mark.ray
@pytest.mark.parametrize("stage", ["corpus", "curate", "tokens"])
def test_ctrl_c_in_an_early_stage(tmp_path: Path, stage: str) -> None:
    run = Run.start(tmp_path / "store", "--until", "tokens")
    assert run.process.stderr is not None
    for line in run.process.stderr:  # the stage's first line: it has just begun
        if line.startswith(f"[{stage}]"):
            break
    run.process.send_signal(signal.SIGINT)
    code, out, err = run.finish(STOP_SECONDS)
    assert code == 130, err
    assert "Traceback" not in err
    assert "repeat the command to continue" in err
    assert out == ""
    assert run.wait_until_gone(1) == []
    store = LocalStore(tmp_path / "store")
    for artifact in list_artifacts(store):
        assert artifact.name != stage
        assert verify_artifact(store, artifact) == []
    named = {artifact.data_prefix for artifact in list_artifacts(store)}
    left = [item for item in store.files() if not item.key.endswith("artifact.json") and _folder(item) not in named]
    assert [item.key for item in left if "/resume/" not in item.key] == []  # what the next run continues from stays


def _folder(item: StoredFile) -> str:
    """The attempt's folder that a file of a store belongs to."""
    return "/".join(item.key.split("/")[:3])


@pytest.mark.ray
def test_the_same_bytes_in_an_s3_store(tmp_path: Path, s3_store: Store) -> None:
    """Everything that is deterministic has the checksums it has in a local folder, and is reused on a second run."""
    local = LocalStore(tmp_path / "store")
    records = {}
    for store in (local, s3_store):
        run = Run.start(store.url, "--until", "tokens", "--json", **{"corpus.sources.0.max_bytes": "300_000"})
        code, out, err = run.finish()
        assert code == 0, err
        assert run.wait_until_gone(1) == []
        assert {line["state"] for line in json.loads(out)["stages"]} == {"made"}
        records[store.url] = {artifact.id: _checksums(artifact) for artifact in list_artifacts(store)}
        assert all(verify_artifact(store, artifact) == [] for artifact in list_artifacts(store))
    assert len(records[local.url]) == 4
    assert records[local.url] == records[s3_store.url]
    code, out, err = Run.start(
        s3_store.url, "--until", "tokens", "--json", **{"corpus.sources.0.max_bytes": "300_000"}
    ).finish()
    assert code == 0, err
    assert {line["state"] for line in json.loads(out)["stages"]} == {"cached"}


def _checksums(artifact: Artifact) -> dict[str, str]:
    """Path -> SHA-256 of the artifact's data (reports say how long things took)."""
    return {entry.path: entry.sha256 for entry in artifact.files if entry.path != "report.html"}
