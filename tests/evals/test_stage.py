"""The whole stage on a real Ray: equal to the stock harness, to itself on other workers, and without a network."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.artifact import Artifact
from cluster.errors import InfraError, UserError, find_raymill_error
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from evals.catalogue import task_files
from evals.config import STAGE, EvalsConfig
from evals.official import official_tasks
from evals.pool import scorers
from evals.scorer import Group
from evals.sources import ModelSource

from .conftest import publish, write_adapter, write_benchmarks, write_corpus, write_model

pytestmark = pytest.mark.ray

SUITES = ("arc_easy", "arc_challenge", "truthfulqa_mc1", "truthfulqa_mc2")


def evaluate(store: Store, config: EvalsConfig, inputs: dict[str, Artifact]) -> Artifact:
    """Run the stage anew and give its artifact."""
    identity = identify(STAGE, config, {role: each.fingerprint for role, each in inputs.items()})
    with Progress(io.StringIO()).track("evals") as tracker:
        return execute(STAGE, identity, config, inputs, store, tracker, force=True).artifact


def read(store: Store, artifact: Artifact, path: str) -> Any:
    return json.loads(store.read(artifact.key(path)))


def sample_files(store: Store, artifact: Artifact) -> dict[str, bytes]:
    return {entry.path: store.read(artifact.key(entry.path)) for entry in artifact.files if "samples" in entry.path}


def stock(root: Path, work: Path, suites: Sequence[str], model: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The same tasks through lm-eval alone: its own loader, its own model class, its own entry point."""
    import datasets
    import lm_eval
    from lm_eval.tasks import TaskManager

    overlay = work / "overlay"
    overlay.mkdir()
    places = {task.file: (task.name, root / task.dataset) for task in official_tasks(suites)}
    for suite, path in task_files(suites):
        lines = [f"include: {path}"]
        if path in places:
            lines += [f"task: {places[path][0]}", f"dataset_path: {places[path][1]}"]
        (overlay / f"{suite}-{path.stem}.yaml").write_text("\n".join(lines) + "\n")
    datasets.config.HF_DATASETS_CACHE = str(work / "cache")
    return lm_eval.simple_evaluate(
        model="hf",
        model_args=model,
        tasks=list(suites),
        task_manager=TaskManager(include_path=str(overlay), include_defaults=False),
        device="cpu",
        **options,
    )


def assert_equal_to_stock(store: Store, artifact: Artifact, expected: dict[str, Any], suites: Sequence[str]) -> None:
    """Every score and standard error, and the log-probability of every single answer, bit for bit."""
    results = read(store, artifact, "results.json")
    for suite in suites:
        for metric, figures in results["tasks"][suite].items():
            assert figures["score"] == expected["results"][suite][f"{metric},none"]
            assert figures["stderr"] == expected["results"][suite][f"{metric}_stderr,none"]
        assert results["tasks"][suite]
        rows = [json.loads(line) for line in store.read(artifact.key(f"samples/{suite}.jsonl")).splitlines()]
        for task in {row["task"] for row in rows}:
            own = [row for row in rows if row["task"] == task]
            assert [row["prompt"] for row in own] == [each["arguments"][0][0] for each in expected["samples"][task]]
            assert [row["doc_hash"] for row in own] == [each["doc_hash"] for each in expected["samples"][task]]
            if "output" in own[0]:
                assert [[row["output"]] for row in own] == [
                    each["filtered_resps"] for each in expected["samples"][task]
                ]
                continue
            answers = [[(each["logprob"], each["greedy"]) for each in row["answers"]] for row in own]
            assert answers == [[tuple(pair) for pair in each["filtered_resps"]] for each in expected["samples"][task]]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("questions") / "set", (*SUITES, "mmlu"), rows=3)


@pytest.fixture(scope="module")
def model(evals_store: Store, tiny_model: Path) -> Artifact:
    return publish(evals_store, "Model", "pretrain", tiny_model)


@pytest.fixture(scope="module")
def evaluated(ray_session: None, evals_store: Store, questions: Path, model: Artifact) -> Artifact:
    """All five suites on two workers, batches of 5."""
    config = EvalsConfig(benchmarks=str(questions), batch_size=5, num_fewshot=1, workers=2)
    return evaluate(evals_store, config, {"model": model})


def test_all_five_suites_equal_the_stock_harness(
    evaluated: Artifact, evals_store: Store, questions: Path, tiny_model: Path, tmp_path: Path
) -> None:
    suites = EvalsConfig().suites
    expected = stock(questions, tmp_path, suites, {"pretrained": str(tiny_model)}, batch_size=5, num_fewshot=1)
    assert_equal_to_stock(evals_store, evaluated, expected, suites)
    assert len(expected["samples"]) == 61


def test_one_worker_gives_the_same_bytes_and_the_same_identity(
    evaluated: Artifact, evals_store: Store, questions: Path, model: Artifact
) -> None:
    samples, results = sample_files(evals_store, evaluated), read(evals_store, evaluated, "results.json")
    config = EvalsConfig(benchmarks=str(questions), batch_size=5, num_fewshot=1, workers=1)
    alone = evaluate(evals_store, config, {"model": model})
    assert alone.fingerprint == evaluated.fingerprint
    assert sample_files(evals_store, alone) == samples
    assert read(evals_store, alone, "results.json") == results


SHARED: dict[str, Any] = {"suites": ("arc_easy", "truthfulqa_mc2"), "batch_size": 5, "num_fewshot": {"arc_easy": 3}}


@pytest.fixture(scope="module")
def shared(ray_session: None, evals_store: Store, questions: Path, model: Artifact) -> Artifact:
    """Prefixes shared, on two workers."""
    config = EvalsConfig.model_validate({"benchmarks": str(questions), **SHARED, "share_prefixes": True})
    return evaluate(evals_store, config, {"model": model})


@pytest.mark.slow
def test_shared_prefixes_give_the_exact_answers_within_rounding(
    shared: Artifact, evals_store: Store, questions: Path, model: Artifact
) -> None:
    exact = evaluate(
        evals_store, EvalsConfig.model_validate({"benchmarks": str(questions), **SHARED}), {"model": model}
    )
    assert exact.fingerprint != shared.fingerprint
    results, exact_results = (read(evals_store, each, "results.json") for each in (shared, exact))
    assert results["shared_prefixes"]["sequences"] >= 8 and results["shared_prefixes"]["saved_tokens"] > 500
    assert "shared_prefixes" not in exact_results
    assert results["settings"] == exact_results["settings"] | {"share_prefixes": True}
    for suite in SHARED["suites"]:
        rows, exact_rows = (
            [json.loads(line) for line in evals_store.read(each.key(f"samples/{suite}.jsonl")).splitlines()]
            for each in (shared, exact)
        )
        assert [[each["logprob"] for each in row["answers"]] for row in rows] == [
            pytest.approx([each["logprob"] for each in row["answers"]], abs=1e-4) for row in exact_rows
        ]


@pytest.mark.slow
def test_shared_prefixes_give_the_same_bytes_on_one_worker(
    shared: Artifact, evals_store: Store, questions: Path, model: Artifact
) -> None:
    samples, results = sample_files(evals_store, shared), read(evals_store, shared, "results.json")
    evals_store.delete_all("answers")
    config = EvalsConfig.model_validate({"benchmarks": str(questions), **SHARED, "share_prefixes": True, "workers": 1})
    alone = evaluate(evals_store, config, {"model": model})
    assert alone.fingerprint == shared.fingerprint
    assert sample_files(evals_store, alone) == samples
    assert read(evals_store, alone, "results.json") == results


def test_what_is_published(evaluated: Artifact, evals_store: Store, questions: Path) -> None:
    assert {
        "arc_easy.acc",
        "arc_easy.acc_stderr",
        "arc_easy.acc_norm",
        "arc_challenge.acc_norm_stderr",
        "mmlu.acc",
        "mmlu.acc_stderr",
        "truthfulqa_mc1.acc",
        "truthfulqa_mc2.acc",
    } <= set(evaluated.metrics)
    results = read(evals_store, evaluated, "results.json")
    assert results["benchmarks"] == "mirror"
    assert results["tasks"]["mmlu"]["acc"]["n"] == 57 * 3
    assert len(results["subtasks"]["mmlu"]) == 57
    assert results["tasks"]["arc_easy"]["acc"]["chance"] == pytest.approx(0.25)
    assert results["settings"]["num_fewshot"] == {suite: 0 if "truth" in suite else 1 for suite in EvalsConfig().suites}
    page = evals_store.read(evaluated.key("report.html")).decode()
    for suite in EvalsConfig().suites:
        assert f"{suite} (mirror)" in page
    assert str(questions) not in json.dumps(evaluated.identity) + json.dumps(results) + page


@pytest.mark.slow  # the base model's equality stays; how adapters are loaded is tested without Ray
def test_an_adapter_equals_the_stock_harness(
    ray_session: None, evals_store: Store, questions: Path, model: Artifact, tiny_model: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "adapter", tiny_model)
    adapter = publish(evals_store, "Adapter", "finetune", folder)
    config = EvalsConfig(benchmarks=str(questions), suites=("arc_easy",), batch_size=4)
    tuned = evaluate(evals_store, config, {"model": adapter, "base": model})
    arguments = {"pretrained": str(tiny_model), "peft": str(folder)}
    assert_equal_to_stock(
        evals_store, tuned, stock(questions, tmp_path, ("arc_easy",), arguments, batch_size=4), ("arc_easy",)
    )
    plain = evaluate(evals_store, config, {"model": model})
    assert sample_files(evals_store, plain) != sample_files(evals_store, tuned)
    with pytest.raises(Exception) as caught:
        evaluate(evals_store, config, {"model": adapter})
    assert "base model is not given" in str(find_raymill_error(caught.value))


@pytest.mark.anchor
@pytest.mark.slow
def test_a_real_model_on_real_questions_equals_the_stock_harness(
    ray_session: None, evals_store: Store, anchors: Path, tmp_path: Path
) -> None:
    """TinyStories' 260 k model, 12 questions a task; three examples overflow its context of 512 at times.

    With TruthfulQA's generation, whose texts are the same too.
    """
    suites = (*SUITES, "truthfulqa_gen")
    source = anchors / "models" / "stories260K-hd32"
    artifact = publish(evals_store, "Model", "stories", source)
    config = EvalsConfig(benchmarks=str(anchors / "benchmarks"), suites=suites, limit=12, num_fewshot=3)
    scored = evaluate(evals_store, config, {"model": artifact})
    expected = stock(
        anchors / "benchmarks",
        tmp_path,
        suites,
        {"pretrained": str(source)},
        batch_size=config.batch_size,
        limit=12,
        num_fewshot=3,
    )
    assert_equal_to_stock(evals_store, scored, expected, suites)
    assert read(evals_store, scored, "results.json")["truncated_requests"] > 0


def brute_force_nll(model: Any, tokens: list[int], prefix: int, context: int) -> float:
    """One forward pass a token: the windows' definition, spelt out."""
    import torch

    total, full = 0.0, len(tokens) // context * context
    for place, token in enumerate(tokens):
        if place < context:
            seen = [prefix, *tokens[:place]]
        elif place < full:
            seen = tokens[place // context * context - 1 : place]
        else:  # the last, shorter window reaches back to fill the context
            seen = tokens[len(tokens) - context - 1 : place]
        with torch.inference_mode():
            logits = model(torch.tensor([seen])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, dim=-1)[token])
    return total


def test_held_out_perplexity_equals_one_computed_token_by_token(
    ray_session: None, evals_store: Store, questions: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = write_model(tmp_path / "short", context=24, seed=3)
    artifact = publish(evals_store, "Model", "short", folder)
    corpus = publish(evals_store, "Corpus", "curate", write_corpus(tmp_path / "corpus", files=2))
    config = EvalsConfig(benchmarks=str(questions), suites=("arc_easy",), limit=1, heldout_tokens=300)
    scored = evaluate(evals_store, config, {"model": artifact, "corpus": corpus})
    results = read(evals_store, scored, "results.json")["heldout"]

    import pyarrow.parquet as pq

    from evals.heldout import choose_documents

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, documents = choose_documents(evals_store, corpus, config.seed), []
    while sum(map(len, documents)) < 300:
        documents.append(tokenizer.encode(texts[len(documents)]))
    count = sum(map(len, documents))
    assert (results["tokens"], results["documents"]) == (count, len(documents))
    assert any(len(tokens) > 3 * 24 for tokens in documents)  # first, middle and last windows

    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    nll = sum(brute_force_nll(loaded, tokens, tokenizer.bos_token_id, 24) for tokens in documents)
    text_bytes = len("".join(texts[: len(documents)]).encode())
    assert results["perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert results["bits_per_byte"] == pytest.approx(nll / math.log(2) / text_bytes, rel=1e-5)

    train = pq.read_table(tmp_path / "corpus" / "train")["text"].to_pylist()
    seen = [token for text in train for token in tokenizer.encode(text)]
    unigram = [-math.log((seen.count(t) + 1) / (len(seen) + len(tokenizer))) for tokens in documents for t in tokens]
    assert results["unigram_perplexity"] == pytest.approx(math.exp(sum(unigram) / count), rel=1e-9)
    assert scored.metrics["heldout.unigram_ratio"] == results["perplexity"] / results["unigram_perplexity"]

    fit = read(evals_store, scored, "results.json")["fit"]
    assert fit["train"] == scored.metrics["heldout.train_bits_per_byte"]
    rows = [json.loads(line) for line in evals_store.read(scored.key("samples/heldout.jsonl")).splitlines()]
    assert sum(row["weight"] for row in rows) == text_bytes


def test_sets_of_ones_own_are_asked_beside_the_suites(
    ray_session: None, evals_store: Store, questions: Path, model: Artifact, tmp_path: Path
) -> None:
    """Every kind, on a real model; labels and texts against the model asked directly."""
    sets = {}
    for kind, rows in {
        "text": [{"text": f"the sun is a star {number}"} for number in range(3)],
        "labels": [{"prompt": f"the moon {number} is", "label": ("sun", "star")[number % 2]} for number in range(6)],
        "answers": [{"prompt": "the planet", "answer": "is"}, {"prompt": "light", "answer": "heat"}],
        "references": [{"prompt": "the planet", "references": ["is a star", "is the sun"]}] * 2,
    }.items():
        path = tmp_path / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[f"own-{kind}"] = {"path": str(path), "kind": kind, "max_new_tokens": 4}
    config = EvalsConfig.model_validate(
        {"benchmarks": str(questions), "suites": ["arc_easy"], "limit": 2, "batch_size": 5, "sets": sets}
    )
    scored = evaluate(evals_store, config, {"model": model})
    results = read(evals_store, scored, "results.json")
    assert {name: found["kind"] for name, found in results["sets"].items()} == {
        f"own-{kind}": kind for kind in ("text", "labels", "answers", "references")
    }
    assert scored.metrics["own-labels.f1"] == results["sets"]["own-labels"]["metrics"]["f1"]["score"]
    assert math.log2(scored.metrics["own-text.perplexity"]) > 0
    rows = [json.loads(line) for line in evals_store.read(scored.key("samples/own-labels.jsonl")).splitlines()]
    for row in rows:
        said = max(row["answers"], key=lambda each: each["logprob"])["text"]
        assert row["metrics"]["acc"] == float(said == f" {row['doc']['label']}")
    usage = read(evals_store, scored, "usage.json")
    assert usage["tasks"]["own-labels"]["requests"] == 12
    assert usage["tasks"]["arc_easy"]["input_tokens"] > usage["tasks"]["arc_easy"]["requests"]
    assert usage["tasks"]["own-answers"]["output_tokens"] > 0
    page = evals_store.read(scored.key("report.html")).decode()
    assert "own-labels (held-out labels)" in page and "Time, tokens, cost" in page and "lm_eval --model hf" in page


def test_contamination_of_the_corpus_stands_beside_the_scores(
    ray_session: None, evals_store: Store, questions: Path, model: Artifact, tmp_path: Path
) -> None:
    folder = write_corpus(tmp_path / "corpus", files=1)
    counts = {"questions": 4, "unchecked": 0, "found": 2, "rate": 0.5, "left": 1, "left_rate": 0.25, "documents": 3}
    account = {"benchmarks_sha256": "0" * 64, "suites": {"arc_easy": counts}, "tasks": {"arc_easy": counts}}
    (folder / "contamination.json").write_text(json.dumps(account), encoding="utf-8")
    corpus = publish(evals_store, "Corpus", "searched", folder)
    config = EvalsConfig(benchmarks=str(questions), suites=("arc_easy",), limit=2, heldout=False)
    scored = evaluate(evals_store, config, {"model": model, "corpus": corpus})
    assert scored.metrics["arc_easy.contamination"] == 0.5
    assert scored.metrics["arc_easy.contamination_left"] == 0.25
    seen = read(evals_store, scored, "results.json")["contamination"]
    assert (seen["corpora"], seen["same_questions"]) == ([corpus.id], False)
    assert "25.0%" in evals_store.read(scored.key("report.html")).decode()


def test_more_examples_than_there_are_is_refused(
    ray_session: None, evals_store: Store, questions: Path, model: Artifact
) -> None:
    config = EvalsConfig(benchmarks=str(questions), suites=("arc_easy",), num_fewshot=25)
    with pytest.raises(UserError, match=r"arc_easy \(mirror\) has 3 worked examples, and num_fewshot asks for 25"):
        evaluate(evals_store, config, {"model": model})


def test_a_folder_that_is_no_model_is_refused(
    ray_session: None, evals_store: Store, questions: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    broken = publish(evals_store, "Model", "broken", tmp_path / "broken")
    with pytest.raises(Exception) as caught:
        evaluate(evals_store, EvalsConfig(benchmarks=str(questions), suites=("arc_easy",)), {"model": broken})
    error = find_raymill_error(caught.value)
    assert isinstance(error, UserError)
    assert "cannot be loaded" in error.what


def test_a_worker_that_dies_is_an_infrastructure_error(ray_session: None, evals_store: Store, model: Artifact) -> None:
    import ray

    with scorers(ModelSource(evals_store, model), 1) as pool:
        batch = [Group([2, 3], [[4]])]
        assert len(pool.score([batch], lambda _: None)) == 1
        worker = psutil.Process(ray.get(pool._actors[0].__ray_call__.remote(lambda _: os.getpid())))
        worker.kill()
        worker.wait(30)  # a killed process may still answer what it has begun
        with pytest.raises(InfraError, match="an evaluation worker died"):
            pool.score([batch], lambda _: None)


GUARD = """
import os, pathlib, socket, sys
folder = pathlib.Path(os.environ["NETWORK_LOG"])
(folder / f"guarded-{os.getpid()}").write_text(" ".join(sys.argv))
own = {"127.0.0.1", "::1", "localhost", "0.0.0.0", socket.gethostname(), os.environ["OWN_ADDRESS"]}
def checked(real):
    def call(self, address, *rest):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in own:
            (folder / f"tried-{os.getpid()}").write_text(str(address) + "".join(__import__("traceback").format_stack()))
            raise OSError("network is blocked in this test")
        return real(self, address, *rest)
    return call
socket.socket.connect = checked(socket.socket.connect)
socket.socket.connect_ex = checked(socket.socket.connect_ex)
resolve = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host is not None and host not in own:
        (folder / f"tried-{os.getpid()}").write_text(str(host) + "".join(__import__("traceback").format_stack()))
        raise OSError("names are not resolved in this test")
    return resolve(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


def test_nothing_is_asked_of_the_network(questions: Path, tiny_model: Path, tmp_path: Path) -> None:
    """`raymill eval` where every Python process, workers included, refuses connections beyond this machine and notes
    attempts."""
    import ray.util

    (tmp_path / "guard").mkdir()
    (tmp_path / "log").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(textwrap.dedent(GUARD))
    offline_names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline_names}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "guard"), str(Path(__file__).parents[2])]),
        "NETWORK_LOG": str(tmp_path / "log"),
        "OWN_ADDRESS": ray.util.get_node_ip_address(),
        "HF_HOME": str(tmp_path / "home-that-must-stay-empty"),
    }
    words = ["--suite", "arc_easy", "--suite", "truthfulqa_mc2", "--limit", "2", "--workers", "1", "--shots", "1"]
    words += ["--benchmarks", str(questions), "--store", str(tmp_path / "store")]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "eval", str(tiny_model), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "truthfulqa_mc2 (mirror)  acc" in done.stdout
    log = {path.name: path.read_text() for path in (tmp_path / "log").iterdir()}
    assert any("default_worker.py" in text for name, text in log.items() if name.startswith("guarded"))
    # Ray's own dashboard process asks whether it runs in a cloud (169.254.169.254); that is not evaluation's doing.
    ours = {name.partition("-")[2] for name, text in log.items() if "ray/dashboard/" not in text}
    assert [text for name, text in log.items() if name.startswith("tried") and name.partition("-")[2] in ours] == []
    assert not (tmp_path / "home-that-must-stay-empty" / "datasets").exists()
