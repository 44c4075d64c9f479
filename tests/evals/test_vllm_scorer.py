"""vLLM gives the transformers backend's log-probabilities, as an engine of ours and behind a URL."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import list_artifacts
from cluster.store_local import LocalStore

from ..test_offline import ALONE
from .conftest import write_adapter, write_benchmarks, write_model

pytestmark = pytest.mark.vllm

TOLERANCE = 1e-4

ASK = """
import io, json, sys
from pathlib import Path
from evals.scorer import Group, Prompt, Scorer
from evals.sources import FolderSource
from evals.vllm_scorer import VllmScorer
backend, base, adapter = sys.argv[1:4]
source = FolderSource(Path(base), Path(adapter) if adapter else None)
actor = {"transformers": Scorer, "vllm": VllmScorer}[backend](source)
actor.load()
batches = [[Group(inputs, continuations) for inputs, continuations in batch] for batch in json.loads(sys.stdin.read())]
answers = actor.answer("score", batches, [""] * len(batches), None)
texts = actor.answer("generate", [[Prompt("the sun is", {"until": ["."], "max_gen_toks": 12}, 5)]], [""], None)
print(json.dumps([answers, texts]))
"""


def questions(context: int) -> list[list[Any]]:
    """Batches of groups: one-token continuations of one prompt, longer ones, and prompts that share their beginning."""
    shared = [5 + number % 300 for number in range(40)]
    letters = [[*shared, 7, 8], [[10], [11], [12]]]
    longer = [[*shared, 9, 30, 31, 32], [[30, 31, 32, 33]]]
    full = [[5 + number * 7 % 300 for number in range(context)], [[3], [4]]]
    return [[letters, longer], [full, [[6, 7], [[8]]]]]


def ask(backend: str, base: Path, adapter: Path | str, batches: list[Any]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", ASK, backend, str(base), str(adapter)],
        input=json.dumps(batches),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def flat(answers: Any) -> list[tuple[float, bool]]:
    return [(answer[0], answer[1]) for batch in answers for group in batch for answer in group]


def assert_near(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=TOLERANCE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("vllm") / "model", context=128)


def test_vllm_gives_the_log_probabilities_and_texts_of_transformers(base: Path, tmp_path: Path) -> None:
    """With a LoRA adapter, whose change vLLM gets in the weights."""
    adapter = write_adapter(tmp_path / "adapter", base)
    batches = questions(128)
    (expected, texts), (found, written) = (ask(name, base, adapter, batches) for name in ("transformers", "vllm"))
    assert_near(flat(found), flat(expected))
    assert written == texts


CONTEXT = 1536
SUITES = ("arc_easy", "truthfulqa_mc2", "truthfulqa_gen")
"""Continuations of several tokens, long prompts, and texts."""


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context has room for TruthfulQA's six examples and a text."""
    return write_model(tmp_path_factory.mktemp("vllm") / "roomy", context=CONTEXT)


@pytest.fixture(scope="module")
def server(roomy: Path) -> Iterator[str]:
    """An unmodified vLLM server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(roomy), "--port", str(port)]
    words += ["--host", "127.0.0.1", "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    words += ["--max-model-len", str(CONTEXT), "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "8"]
    own = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    process = subprocess.Popen(words, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                assert process.poll() is None, "the server ended"
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def evaluated(roomy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, dict[str, list[Any]]]]:
    """`raymill eval` of a model or URL: its results, and the rows of its samples by suite."""
    folder = tmp_path_factory.mktemp("evaluated")
    questions = write_benchmarks(folder / "set", SUITES, rows=6)

    def run(model: str, *more: str, before: Sequence[str] = ()) -> tuple[Any, dict[str, list[Any]]]:
        store = LocalStore(folder / f"store-{len(list(folder.iterdir()))}")
        words = [*before, sys.executable, "-m", "pipelines.cli", "eval", model, "--json", "--store", store.url, *more]
        words += ["--benchmarks", str(questions), *(word for suite in SUITES for word in ("--suite", suite))]
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | own, timeout=280)
        assert done.returncode == 0, done.stderr[-4000:]
        (report,) = list_artifacts(store, "EvalReport")
        lines = {suite: store.read(report.key(f"samples/{suite}.jsonl")).splitlines() for suite in SUITES}
        return json.loads(done.stdout), {suite: [json.loads(line) for line in own] for suite, own in lines.items()}

    return run


@pytest.fixture(scope="module")
def by_transformers(evaluated: Any, roomy: Path) -> tuple[Any, dict[str, list[Any]]]:
    found: tuple[Any, dict[str, list[Any]]] = evaluated(str(roomy), "--workers", "1")
    return found


Found = tuple[Any, dict[str, list[Any]]]


def assert_the_same(found: Found, expected: Found, whole: bool = True) -> None:
    """Log-probabilities within the tolerance, texts to the letter, and so every score.

    Args:
        whole: else the text may lack a letter that its last token only begins, which vLLM's server holds back.
    """
    for suite in SUITES:
        for row, other in zip(found[1][suite], expected[1][suite], strict=True):
            assert (row["doc_hash"], row["prompt"]) == (other["doc_hash"], other["prompt"])
            texts = [
                each.get("output", "") if whole else each.get("output", "").rstrip("\ufffd") for each in (row, other)
            ]
            assert texts[0] == texts[1]
            assert_near(
                *([(each["logprob"], each["greedy"]) for each in one.get("answers", ())] for one in (row, other))
            )
        if whole or suite != "truthfulqa_gen":
            for metric, figures in expected[0]["tasks"][suite].items():
                assert found[0]["tasks"][suite][metric]["score"] == pytest.approx(figures["score"], abs=TOLERANCE)
    assert any(row["output"] for row in found[1]["truthfulqa_gen"])


@pytest.mark.slow
@pytest.mark.ray
def test_an_evaluation_on_engines_gives_the_scores_of_transformers(
    evaluated: Any, by_transformers: Any, roomy: Path
) -> None:
    """On a loopback of its own and nothing else, where this machine can make one: engines need no network either."""
    alone = (
        shutil.which("unshare") is not None and subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
    )
    found = evaluated(str(roomy), "--backend", "vllm", "--workers", "1", before=ALONE if alone else ())
    assert_the_same(found, by_transformers)
    assert found[0]["settings"]["backend"] == "vllm"


@pytest.mark.slow
@pytest.mark.ray
def test_an_evaluation_of_a_url_gives_the_scores_of_transformers(
    evaluated: Any, by_transformers: Any, server: str, roomy: Path
) -> None:
    found = evaluated(server, "--tokenizer", str(roomy))
    assert_the_same(found, by_transformers, whole=False)
    assert found[0]["settings"]["backend"] == "url"


@pytest.mark.slow
def test_a_served_url_gives_the_log_probabilities_and_texts_of_transformers(server: str, roomy: Path) -> None:
    from evals.endpoint import Endpoint, EndpointPool
    from evals.scorer import Group, Prompt

    batches = questions(CONTEXT - 2)  # the server counts the continuation's last token, and adds one
    expected, texts = ask("transformers", roomy, "", batches)
    pool = EndpointPool(Endpoint(server, "tiny"), 4, "<eos>")
    found = pool.score([[Group(*group) for group in batch] for batch in batches], lambda _: None)
    assert_near(flat(found), flat(expected))
    asked = [[Prompt("the sun is", {"until": ["."], "max_gen_toks": 12}, 5)]]
    assert pool.generate(asked, lambda _: None) == texts
