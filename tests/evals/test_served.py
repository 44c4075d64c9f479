"""A model behind a URL: what is asked of it, and what comes of a server that fails, changes or dies half-way."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import find_artifact
from cluster.errors import InfraError, UserError
from cluster.store import open_store
from evals import endpoint as endpoint_module
from evals.endpoint import Endpoint, EndpointPool
from evals.scorer import Group, Prompt
from pipelines.cli import run_command

from .conftest import write_benchmarks
from .fake_openai import log_probability

CONTEXT = 256
FAST = (0.01, 0.01)


@contextmanager
def serving(*options: str, port: int = 0, context: int = CONTEXT) -> Iterator[str]:
    """A server process of its own."""
    words = [
        sys.executable,
        str(Path(__file__).with_name("fake_openai.py")),
        str(context),
        "--port",
        str(port),
        *options,
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "PAUSES_S", FAST)
    monkeypatch.setattr(Endpoint.__init__, "__defaults__", (FAST, ""))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("questions") / "set", ("arc_easy", "truthfulqa_mc2"), rows=9)


def pool_of(url: str, in_flight: int = 3) -> EndpointPool:
    return EndpointPool(Endpoint(url, "tiny", FAST), in_flight, "<eos>")


def test_continuations_are_scored_at_their_own_places_in_order() -> None:
    batches = [[Group([2, 4, 6, 9], [[9, 12], [9, 5]]), Group([3], [[6]])], [Group([1, 2], [[2, 3]])]]
    told: list[int] = []
    with serving() as url:
        found = pool_of(url).score(batches, told.append)
    at = log_probability
    assert found[0][0] == [(pytest.approx(at(9, 3) + at(12, 4)), True), (pytest.approx(at(9, 3) + at(5, 4)), False)]
    assert found[0][1] == [(pytest.approx(at(6, 1)), True)]
    assert found[1][0] == [(pytest.approx(at(2, 1) + at(3, 2)), False)]
    assert sum(told) == 4


def test_texts_end_where_the_task_says() -> None:
    with serving() as url:
        prompts = [Prompt(text, {"until": ["\n"], "max_gen_toks": 8}, 2) for text in ("ab", "abcd")]
        assert pool_of(url).generate([prompts], lambda _: None) == [[" 2 letters.", " 4 letters."]]


def test_a_prompt_that_is_too_long_loses_its_beginning() -> None:
    """As the stock harness cuts it; the server would refuse the request with all its prompts."""
    with serving(context=20) as url:
        pool = pool_of(url)
        pool.encode, pool.longest = lambda text: [*text.encode()], 18
        asked = [Prompt(text, {"until": ["\n"], "max_gen_toks": 8}, len(text)) for text in ("a" * 30 + "b", "abc")]
        assert pool.generate([asked], lambda _: None) == [[" 10 tokens to 98.", " 3 tokens to 99."]]
        assert pool.generate([asked[1:]], lambda _: None) == [[" 3 letters."]]


def test_a_server_may_take_less_than_its_model_and_tell_nobody(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's configuration says 256 tokens, the server takes 64: Raymill's gateway does not tell."""
    with serving("--silent", context=64) as url:
        assert evaluate(url, questions, tiny_model, tmp_path / "one") == 2
        assert "longer than the context" in (said := capsys.readouterr().err)
        assert "--context" in said
        assert evaluate(url, questions, tiny_model, tmp_path / "two", "--context", "64") == 0
        assert results(capsys)["context_tokens"] == 62


def test_a_server_that_is_busy_for_a_while_is_asked_again() -> None:
    with serving("--fail-first", "2") as url:
        pool = pool_of(url, in_flight=1)
        assert pool.score([[Group([2], [[3]])]], lambda _: None) == [[[(pytest.approx(log_probability(3, 1)), True)]]]
        assert pool.failure is None


def test_a_server_that_is_gone_is_an_infrastructure_error_that_says_what_was_tried() -> None:
    with serving() as url:
        pass
    with pytest.raises(InfraError, match="does not answer") as caught:
        pool_of(url).score([[Group([2], [[3]])]], lambda _: None)
    (told,) = caught.value.attempts
    assert told.startswith(f"{len(FAST) + 1} times: URLError")


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, the last one again and again; its URL, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        asked.append(client.recv(65536))
                        client.sendall(answers[min(len(asked), len(answers)) - 1])

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


def answer(body: bytes, length: int, status: bytes = b"200 OK", *more: bytes) -> bytes:
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % length, b"Connection: close", *more]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def test_half_an_answer_is_asked_for_again() -> None:
    with answering(answer(b'{"a": ', 100), answer(b'{"a": 1}', 8)) as (url, asked):
        assert Endpoint(url, "tiny", FAST).get("/v1/models") == {"a": 1}
        assert len(asked) == 2


def test_the_key_is_shown_to_no_proxy_on_the_way_to_this_machine_and_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "the-key")
    with answering(answer(b"{}", 2)) as (elsewhere, asked):
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, elsewhere)
        there = b"Location: " + elsewhere.encode() + b"/v1/models"
        with answering(answer(b"", 0, b"302 Found", there)) as (url, _), pytest.raises(UserError, match="HTTP 302"):
            Endpoint(url, "tiny", FAST).get("/v1/models")
        assert asked == []


def test_only_the_variant_that_was_asked_for_counts() -> None:
    with serving("--variants", "base,base,tuned") as url:
        pool = EndpointPool(Endpoint(url, "tiny", FAST, "tuned"), 1, "<eos>")
        assert pool.score([[Group([2], [[3]])]], lambda _: None) == [[[(pytest.approx(log_probability(3, 1)), True)]]]
        with pytest.raises(InfraError) as caught:
            EndpointPool(Endpoint(url, "tiny", FAST, "other"), 1, "<eos>").score([[Group([2], [[3]])]], lambda _: None)
        assert any("answered in place of other" in attempt for attempt in caught.value.attempts)


def test_a_wrong_key_is_the_users_mistake_and_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-this-one")
    with serving("--key", "right") as url:
        with pytest.raises(UserError, match="HTTP 401") as caught:
            pool_of(url).score([[Group([2], [[3]])]], lambda _: None)
        assert "not-this-one" not in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", "right")
        assert pool_of(url).score([[Group([2], [[3]])]], lambda _: None)[0][0][0][0] < 0


def test_a_server_without_log_probabilities_of_prompts_is_refused() -> None:
    with pytest.raises(UserError, match="gives no log-probabilities of a prompt"):
        endpoint_module._read({"text": "x", "logprobs": None}, 3, 1)
    with pytest.raises(UserError, match="gives no log-probabilities of a prompt"):
        endpoint_module._read({"logprobs": {"token_logprobs": [-0.1], "top_logprobs": [{"a": -0.1}]}}, 3, 1)


def evaluate(url: str, questions: Path, tokenizer: Path, store: Path, *more: str) -> int:
    words = ["eval", url, "--tokenizer", str(tokenizer), "--benchmarks", str(questions), "--store", str(store)]
    return run_command([*words, "--suite", "arc_easy", "--suite", "truthfulqa_mc2", "--requests", "1", "--json", *more])


def results(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_whole_evaluation_of_a_url_needs_no_ray_and_says_what_it_asked(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as url:
        assert evaluate(f"{url}/v1/", questions, tiny_model, tmp_path / "store") == 0
    found = results(capsys)
    assert found["model"]["url"] == url
    assert found["tasks"]["arc_easy"]["acc"]["n"] == 9
    assert "unanswered" not in found
    store = open_store(tmp_path / "store")
    artifact = find_artifact(store, "evals-tiny")
    rows = [json.loads(line) for line in store.read(artifact.key("samples/arc_easy.jsonl")).splitlines()]
    assert all(answer["logprob"] < 0 for row in rows for answer in row["answers"])
    # TruthfulQA's six worked examples do not fit 256 tokens beside their question.
    assert (found["truncated_requests"], found["truncated_by_task"]) == (36, {"truthfulqa_mc2": 36})
    assert json.loads(store.read(artifact.key("usage.json")))["workers"] == 1
    page = store.read(artifact.key("report.html")).decode()
    assert "lost the beginning of their prompt (truthfulqa_mc2 36)" in page
    assert list(store.files("answers/")) == []  # tomorrow another model may be served there


def test_an_endpoint_that_dies_half_way_leaves_a_partial_result_and_exit_3_and_is_then_asked_only_the_rest(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    with serving() as url:
        assert evaluate(url, questions, tiny_model, tmp_path / "other") == 0
        whole = results(capsys)
        port = int(url.rpartition(":")[2])
    with serving("--die-after", "12", port=port):
        assert evaluate(url, questions, tiny_model, store) == 3
    partial = results(capsys)
    assert "the endpoint stopped answering" in partial["unanswered"]
    left = {suite: partial["tasks"][suite].get("acc", {"n": 0})["n"] for suite in partial["tasks"]}
    assert 0 < sum(left.values()) < 18
    for suite, count in left.items():
        assert count == 9 or f"{suite} {9 - count} of 9" in partial["unanswered"]
    artifact = find_artifact(open_store(store), "evals-tiny")
    assert "PARTIAL" in open_store(store).read(artifact.key("report.html")).decode()
    assert artifact.details["unanswered"] == partial["unanswered"]
    # 18 batches in all, 12 of them known; three of those are asked to see that they hold.
    with serving("--die-after", "9", port=port):
        assert evaluate(url, questions, tiny_model, store) == 0
    assert results(capsys)["tasks"] == whole["tasks"]


def test_of_a_random_sample_the_right_questions_are_left_out(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The harness numbers a sample's requests by their place in it, its rows by their place in the set."""
    rows = []
    for name, options in (("whole", ()), ("half", ("--die-after", "9"))):
        with serving(*options) as url:
            assert evaluate(url, questions, tiny_model, tmp_path / name, "--sample", "5") == (3 if options else 0)
        found, store = results(capsys), open_store(tmp_path / name)
        artifact = find_artifact(store, "evals-tiny")
        lines = store.read(artifact.key("samples/arc_easy.jsonl")).splitlines()
        rows.append({row["doc_id"]: row["answers"] for row in map(json.loads, lines)})
    whole, half = rows
    assert len(whole) == 5
    assert 0 < len(half) < 5
    assert found["tasks"]["arc_easy"]["acc"]["n"] == len(half)
    assert f"arc_easy {5 - len(half)} of 5" in found["unanswered"]
    assert half == {number: whole[number] for number in half}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words of an evaluation with every kind of request: choices, texts, sets of one's own."""
    folder = tmp_path_factory.mktemp("everything")
    root = write_benchmarks(folder / "set", ("arc_easy",), rows=9)
    write_benchmarks(root, ("truthfulqa_gen",), rows=2)  # ROUGE takes a quarter of a second each
    texts = [json.dumps({"text": f"the sun is a star {number}"}) for number in range(6)]
    asked = [json.dumps({"prompt": f"the {number}", "answer": "5 letters."}) for number in range(6)]
    for name, lines in (("notes", texts), ("capitals", asked)):
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    sets = f"sets={{notes: {{path: {folder}/notes.jsonl, kind: text}}"
    sets += f", capitals: {{path: {folder}/capitals.jsonl, kind: answers}}}}"
    suites = ["--suite", "arc_easy", "--suite", "truthfulqa_gen"]
    return ["--benchmarks", str(root), *suites, "--requests", "1", "--set", sets]


def test_an_endpoint_that_dies_leaves_a_partial_result_whatever_was_still_to_be_asked(
    everything: list[str], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """36 choices are 9 requests, 2 questions 1, 6 texts that differ in their last token 1, 6 prompts 2.

    It dies among the choices; then, three kept requests asked again, among the last set's prompts.
    """
    words = ["eval", "--tokenizer", str(tiny_model), "--store", str(tmp_path / "store"), "--json", *everything]
    port = 0
    for requests, missing in (
        (8, "arc_easy 4 of 9, truthfulqa_gen 2 of 2, notes 6 of 6, capitals 6 of 6"),
        (7, "capitals 2 of 6"),
    ):
        with serving("--die-after", str(requests), port=port, context=1024) as url:
            port = int(url.rpartition(":")[2])
            assert run_command([*words, url]) == 3
        assert results(capsys)["unanswered"].endswith(f"questions without an answer: {missing}")
        artifact = find_artifact(open_store(tmp_path / "store"), "evals-tiny")
        assert "PARTIAL" in open_store(tmp_path / "store").read(artifact.key("report.html")).decode()
    with serving(port=port, context=1024):
        assert run_command([*words, url]) == 0
    whole = results(capsys)
    assert "unanswered" not in whole
    assert whole["tasks"]["truthfulqa_gen"]["bleu_acc"]["n"] == 2
    assert whole["sets"]["capitals"]["metrics"]["exact_match"]["score"] == 1.0
    assert whole["sets"]["notes"]["metrics"]["bits_per_byte"]["n"] == 6


def test_kept_answers_of_another_model_are_not_used(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as url:
        port = int(url.rpartition(":")[2])
    with serving("--die-after", "7", port=port):
        assert evaluate(url, questions, tiny_model, tmp_path / "store") == 3
    capsys.readouterr()
    with serving("--shift", "0.25", port=port):
        assert evaluate(url, questions, tiny_model, tmp_path / "store") == 0
        mixed = results(capsys)
        assert evaluate(url, questions, tiny_model, tmp_path / "alone") == 0
        alone = results(capsys)
    assert mixed["tasks"] == alone["tasks"]


def test_the_answers_of_two_models_are_never_mixed_however_often_they_die(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second model dies as well; what the first one had answered must not come back in the third run."""
    with serving() as url:
        port = int(url.rpartition(":")[2])
    for options in (("--die-after", "9"), ("--die-after", "5", "--shift", "0.25")):
        with serving(*options, port=port):
            assert evaluate(url, questions, tiny_model, tmp_path / "store") == 3
    capsys.readouterr()
    assert len(list(open_store(tmp_path / "store").files("answers/"))) == 4  # the second's; one request told it apart
    with serving("--shift", "0.25", port=port):
        assert evaluate(url, questions, tiny_model, tmp_path / "store") == 0
        after_two = results(capsys)
        assert evaluate(url, questions, tiny_model, tmp_path / "alone") == 0
        assert results(capsys)["tasks"] == after_two["tasks"]
        rows = [
            open_store(tmp_path / name).read(
                find_artifact(open_store(tmp_path / name), "evals-tiny").key("samples/arc_easy.jsonl")
            )
            for name in ("store", "alone")
        ]
    assert rows[0] == rows[1]


def test_a_mixture_of_variants_is_called_one(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving("--variants", "base,base,tuned") as url:
        assert evaluate(url, questions, tiny_model, tmp_path / "store") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["model"]["answered_by"] == {"base": 12, "tuned": 6}
    assert "several variants answered (base 12, tuned 6 requests)" in told.err
    page = open_store(tmp_path / "store")
    assert "scores of the mixture" in page.read(find_artifact(page, "evals-tiny").key("report.html")).decode()


def test_a_password_in_the_address_is_refused_and_a_tokenizer_is_asked_for(
    questions: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("http://me:secret@localhost:1/v1", questions, tiny_model, tmp_path / "store") == 2
    assert "secret" not in capsys.readouterr().err
    with serving() as url:
        words = ["eval", url, "--benchmarks", str(questions), "--suite", "arc_easy", "--store", str(tmp_path / "s")]
        assert run_command(words) == 2
        assert "--tokenizer" in capsys.readouterr().err
        assert run_command([*words, "--model-name", "huge"]) == 2
        assert "serves no model 'huge'" in capsys.readouterr().err
