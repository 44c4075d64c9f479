"""A batch's answers are those of lm-eval's own arithmetic on whole sequences, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from evals.scorer import FEWEST_ROWS, Answer, Group, Scorer
from evals.sources import FolderSource


@pytest.fixture(scope="module")
def scorer(tiny_model: Path) -> Scorer:
    scorer = Scorer(FolderSource(tiny_model))
    scorer.load()
    return scorer


def whole(model: object, batch: list[Group]) -> list[list[Answer]]:
    """As ``HFLM._loglikelihood_tokens`` has it: logits and log-softmax of every position."""
    width = max(len(group.inputs) for group in batch)
    padded = torch.tensor([group.inputs + [0] * (width - len(group.inputs)) for group in batch])
    with torch.inference_mode():
        logits = torch.log_softmax(model(padded).logits, dim=-1)  # type: ignore[operator]
    answers = []
    for group, each in zip(batch, logits, strict=True):
        found = []
        for tokens in group.continuations:
            rows = each[len(group.inputs) - len(tokens) : len(group.inputs)]
            wanted = torch.tensor(tokens)
            values = torch.gather(rows.unsqueeze(0), 2, wanted.view(1, -1, 1)).squeeze(-1)
            found.append((float(values.sum()), bool((rows.argmax(dim=-1) == wanted).all())))
        answers.append(found)
    return answers


@pytest.mark.parametrize("size", [1, 3, 8])
def test_only_the_logits_that_are_read_are_computed_and_no_bit_moves(scorer: Scorer, size: int) -> None:
    chance = random.Random(size)
    tokens = lambda count: [chance.randrange(2, 250) for _ in range(count)]  # noqa: E731
    shortest = 0
    for length in (1, 2, 9, 40, 63, 65, 130, 256):
        batch = []
        for _ in range(size):
            inputs = tokens(max(1, length - chance.randrange(0, 6)))
            longest = chance.randrange(1, min(12, len(inputs)) + 1)
            batch.append(Group(inputs, [tokens(longest), tokens(chance.randrange(1, longest + 1))]))
        seen = []
        hook = scorer._model.lm_head.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.shape[1]))
        answers = scorer.score([batch])[0]
        hook.remove()
        assert answers == whole(scorer._model, batch)
        assert seen[0] * size >= FEWEST_ROWS or seen[0] == max(len(group.inputs) for group in batch)
        shortest += seen[0] < max(len(group.inputs) for group in batch)
    assert shortest >= 2  # of the longer ones not all positions were computed


def test_a_model_that_takes_no_such_options_is_asked_for_everything(scorer: Scorer, tiny_model: Path) -> None:
    batch = [Group([5, 6, 7, 8], [[9, 10], [11]]), Group([3], [[4]])]
    expected = scorer.score([batch])
    takes, scorer._takes = scorer._takes, {"input_ids"}
    assert scorer.score([batch]) == expected
    scorer._takes = takes
