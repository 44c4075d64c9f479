"""Requests are sorted, grouped and batched as lm-eval's own Collator does it, and answers come back in order."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.model import TemplateLM

from cluster.errors import UserError
from cluster.progress import Progress, Tracker
from evals.encoding import encode_pairs
from evals.harness import ClusterLM, TokenRequest, _group
from evals.scorer import Answer, Group, Prompt

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=5)
REQUESTS = st.lists(st.tuples(st.none(), TOKENS, TOKENS), min_size=1, max_size=40)


class EchoPool:
    """Answers each continuation with a number made of what it was given, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Group]] = []
        self.prompts: list[list[Prompt]] = []

    def generate(self, batches: list[list[Prompt]], on_done: Callable[[int], None]) -> list[list[str]]:
        self.prompts = batches
        return [[f"{prompt.context}!" for prompt in batch] for batch in batches]

    def score(self, batches: list[list[Group]], on_done: Callable[[int], None]) -> list[list[list[Answer]]]:
        self.batches = batches
        for batch in batches:
            on_done(sum(len(group.continuations) for group in batch))
        return [[[(echo(group, tokens), False) for tokens in group.continuations] for group in b] for b in batches]


def echo(group: Group, continuation: list[int]) -> float:
    whole = [*group.inputs[: len(group.inputs) - len(continuation) + 1], *continuation]
    return float(sum((place + 1) * 7**token for place, token in enumerate(whole)))


def make_lm(model: Path, pool: EchoPool, batch_size: int) -> ClusterLM:
    return ClusterLM(model, pool, batch_size, Tracker(Progress(io.StringIO()), "test"))  # type: ignore[arg-type]


@given(REQUESTS)
def test_groups_and_their_order_are_the_collators(requests: list[TokenRequest]) -> None:
    from lm_eval.models.utils import Collator

    def sort_key(request: TokenRequest) -> tuple[int, tuple[int, ...]]:
        tokens = request[1] + request[2]
        return -len(tokens), tuple(tokens)

    collator = Collator(
        requests, sort_fn=sort_key, group_by="contexts", group_fn=lambda request: request[-2] + request[-1][:-1]
    )
    expected = list(collator.get_batched(n=3))
    groups = _group(requests)
    longest = [max((requests[index] for index in members), key=lambda request: len(request[2])) for members in groups]
    assert [longest[start : start + 3] for start in range(0, len(longest), 3)] == expected
    assert sorted(index for members in groups for index in members) == list(range(len(requests)))


def test_answers_come_back_in_the_order_of_the_requests(tiny_model: Path) -> None:
    pool = EchoPool()
    lm = make_lm(tiny_model, pool, 2)
    requests: list[TokenRequest] = [(None, [1, 2], [3]), (None, [5], [6, 7, 8]), (None, [1, 2], [4]), (None, [9], [1])]
    answers = lm._loglikelihood_tokens(requests)
    expected = [
        sum((place + 1) * 7**token for place, token in enumerate(context + continuation))
        for _, context, continuation in requests
    ]
    assert [value for value, _ in answers] == expected
    assert [len(batch) for batch in pool.batches] == [2, 1]
    assert (lm.requests, lm.truncated) == (4, 0)


def test_a_long_context_loses_its_beginning_and_is_counted(tiny_model: Path) -> None:
    pool = EchoPool()
    lm = make_lm(tiny_model, pool, 1)
    lm._loglikelihood_tokens([(None, list(range(300)), [7]), (None, list(range(256)), [7])])
    assert lm.truncated == 1
    assert [batch[0].inputs for batch in pool.batches] == [list(range(44, 300)), list(range(256))]


def test_an_answer_longer_than_the_context_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="does not fit the model's context of 256"):
        make_lm(tiny_model, EchoPool(), 1)._loglikelihood_tokens([(None, [1], [1] * 257)])


def test_a_tokenizer_alone_is_enough_where_the_context_is_told(tiny_model: Path, tmp_path: Path) -> None:
    """An endpoint's model is elsewhere: `raymill eval URL` has its tokenizer only."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, tmp_path)
    lm = ClusterLM(tmp_path, EchoPool(), 1, Tracker(Progress(io.StringIO()), "test"), max_length=30)  # type: ignore[arg-type]
    assert lm.max_length == 30


@pytest.mark.parametrize("length", [1, 255, 256, 257, 600, 768])
def test_every_token_of_a_long_text_is_predicted_once_in_full_windows(tiny_model: Path, length: int) -> None:
    pool = EchoPool()
    lm = make_lm(tiny_model, pool, 4)
    tokens = [2 + number % 300 for number in range(length)]
    lm.rolling_tokens([tokens])
    windows = [group for batch in pool.batches for group in batch]
    assert sum(len(group.continuations[0]) for group in windows) == length
    for group in windows:
        end = len(group.inputs)
        assert end == 256 or len(windows) == 1
        assert group.inputs[end - len(group.continuations[0]) + 1 :] == group.continuations[0][:-1]


@dataclass
class Asked:
    """A request as lm-eval makes it, as far as it is read."""

    args: tuple[str, dict[str, object]]
    task_name: str = "gen"
    doc_id: int = 0


def test_whole_texts_are_in_the_account_of_the_task_that_asks(tiny_model: Path) -> None:
    pool = EchoPool()
    lm = make_lm(tiny_model, pool, 2)
    asked = [Asked((text,), task) for text, task in (("the sun", "a"), ("light", "b"), ("the moon is", "a"))]  # type: ignore[arg-type]
    answers = lm.loglikelihood_rolling(asked)
    assert len(set(answers)) == 3
    assert lm.usage.requests == {"a": 2, "b": 1}
    pool.score = lambda batches, on_done: [None for _ in batches]  # type: ignore[method-assign,misc]
    assert lm.loglikelihood_rolling(asked) == [-1.0] * 3
    assert lm.unanswered == {("a", 0), ("b", 0)}  # what an endpoint did not answer


def test_generation_is_batched_as_the_stock_harness_does_and_answered_in_order(tiny_model: Path) -> None:
    pool = EchoPool()
    lm = make_lm(tiny_model, pool, 2)
    few, many = {"until": ["\n"], "max_gen_toks": 8}, {"until": ["."], "max_gen_toks": 9}
    asked = [("the sun", few), ("light", many), ("the sun is a star that", few), ("every planet", few)]
    assert lm.generate_until([Asked(each) for each in asked]) == [f"{text}!" for text, _ in asked]
    assert [[prompt.args for prompt in batch] for batch in pool.prompts] == [
        [asked[2], asked[3]],
        [asked[0]],
        [asked[1]],
    ]


def test_texts_that_cannot_fit_the_context_are_refused_clearly(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="texts of 256 tokens, and the model's context is 256"):
        make_lm(tiny_model, EchoPool(), 1).generate_until([Asked(("the sun", {}))])


@given(st.lists(st.tuples(st.text("ab <eos>\n", max_size=12), st.text("ab <s>", min_size=1, max_size=6)), max_size=12))
def test_encoding_in_blocks_equals_the_harness_one_by_one(tiny_model: Path, pairs: list[tuple[str, str]]) -> None:
    lm = make_lm(tiny_model, EchoPool(), 1)
    alone: list[object] = []
    lm._loglikelihood_tokens = lambda tokens, **_: alone.extend(pair[1:] for pair in tokens)  # type: ignore[method-assign]
    TemplateLM.loglikelihood(lm, [Asked(pair) for pair in pairs], disable_tqdm=True)  # type: ignore[arg-type]
    assert encode_pairs(lm, pairs) == alone
