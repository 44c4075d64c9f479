"""Answers are draws from the model's distribution, each a function of its own numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from pipelines.align.sampling import draws_of, sample_answers
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    made = build_llama(shape, vocab_size=9, max_positions=32, bos_id=0, eos_id=1, pad_id=2).eval()
    with torch.no_grad():
        made.get_output_embeddings().weight *= 20  # far from uniform
    return made


def sample(model: Any, prompts: list[list[int]], draws: Any, **settings: Any) -> list[list[int]]:
    chosen = {"stops": (), "pad_id": 2, "temperature": 1.0, "device": CPU} | settings
    return sample_answers(model, prompts, draws, **chosen)


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_tokens_are_drawn_as_often_as_the_model_says(model: Any, temperature: float) -> None:
    draws = np.stack([draws_of(1, 0, number, 1) for number in range(4000)])
    tokens = [answer[0] for answer in sample(model, [[4, 5]] * 4000, draws, temperature=temperature)]
    shares = torch.softmax(logits(model, [4, 5]).double() / temperature, -1).numpy()
    assert chisquare(np.bincount(tokens, minlength=9), 4000 * shares).pvalue > 1e-3
    assert shares.max() > 0.2


def test_each_token_follows_from_all_before(model: Any) -> None:
    """The oracle: no cache, no batch, one forward pass a token, the cumulative sum by hand."""
    prompts, draws = [[4, 5, 6], [7], [3, 8, 3, 8, 3]], np.stack([draws_of(2, n, 0, 6) for n in range(3)])
    expected = []
    for prompt, numbers in zip(prompts, draws, strict=True):
        ids = list(prompt)
        for number in numbers:
            shares = torch.softmax(logits(model, ids).double(), -1).tolist()
            total, token = 0.0, 0
            for token, share in enumerate(shares):  # noqa: B007 - the last one looked at is the one
                total += share
                if total > number:
                    break
            ids.append(token)
        expected.append(ids[len(prompt) :])
    assert sample(model, prompts, draws) == expected
    assert [sample(model, [prompt], draws[n : n + 1])[0] for n, prompt in enumerate(prompts)] == expected


def test_an_answer_ends_with_its_first_stop(model: Any) -> None:
    draws = np.stack([draws_of(4, n, 0, 12) for n in range(30)])
    free = sample(model, [[4]] * 30, draws, temperature=4.0)
    stopped = sample(model, [[4]] * 30, draws, temperature=4.0, stops=(5, 7))
    for whole, cut in zip(free, stopped, strict=True):
        ends = [place for place, token in enumerate(whole) if token in (5, 7)]
        assert cut == (whole[: ends[0] + 1] if ends else whole)
    assert len({len(each) for each in stopped}) > 3


def test_draws_differ_by_seed_visit_and_answer() -> None:
    first = draws_of(1, 2, 3, 4)
    assert first.tolist() == draws_of(1, 2, 3, 4).tolist()
    others = [draws_of(2, 2, 3, 4), draws_of(1, 3, 3, 4), draws_of(1, 2, 4, 4)]
    assert len({tuple(each.tolist()) for each in [first, *others]}) == 4
