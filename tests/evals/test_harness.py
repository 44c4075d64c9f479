"""Requests are sorted, grouped and batched as lm-eval's own Collator does it, and answers come back in order."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import UserError
from cluster.progress import Progress, Tracker
from evals.harness import ClusterLM, TokenRequest, _group
from evals.scorer import Answer, Group

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=5)
REQUESTS = st.lists(st.tuples(st.none(), TOKENS, TOKENS), min_size=1, max_size=40)


class EchoPool:
    """Answers each continuation with a number made of what it was given, and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[Group]] = []

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


def test_generation_is_refused_clearly(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="likelihoods only"):
        make_lm(tiny_model, EchoPool(), 1).generate_until([])
