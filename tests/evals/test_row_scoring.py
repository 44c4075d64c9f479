"""Sequences in one row answer as they do alone, or the model is not asked so."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evals import prefixes
from evals.prefixes import cut_rows, find_runs, row_tokens
from evals.row_scoring import takes_rows
from evals.scorer import Group, Scorer, SharedBatch

from .test_prefix_scoring import VOCABULARY, assert_near, made, oracle, scorer

__all__ = ["scorer"]  # the fixture: a Llama, a GPT-2 with learned positions, a Llama with an adapter


def question(chance: random.Random, prefix: int, answers: int) -> SharedBatch:
    """A beginning and so many rests of 1 to 7 tokens."""
    head = [chance.randrange(2, VOCABULARY) for _ in range(prefix)]
    return SharedBatch(prefix, [made(chance, head, 1 + (5 * number + prefix) % 7, 3) for number in range(answers)])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_answers_are_those_of_whole_sequences(scorer: Scorer, rows: int) -> None:
    """Rows of several lengths in a batch, padded to the longest, with one to six rests each."""
    chance = random.Random(rows)
    shapes = [(1, 4), (90, 6), (33, 1), (2, 2), (64, 3)]
    batch = [question(chance, prefix, answers) for prefix, answers in shapes[:rows]]
    answers = scorer.score_rows([batch])[0]
    groups = [group for row in batch for group in row.groups]
    assert_near(answers, [oracle(scorer._model, group) for group in groups])
    assert_near(answers, scorer.score([groups])[0])


def test_a_rest_is_not_moved_by_the_others(scorer: Scorer) -> None:
    """Other tokens in the first rest leave the second's answer as it is, to the bit."""
    chance = random.Random(4)
    row = question(chance, 40, 3)
    first = row.groups[0]
    changed = first._replace(inputs=[*first.inputs[:-1], (first.inputs[-1] + 1) % VOCABULARY])
    before = scorer.score_rows([[row]])[0]
    after = scorer.score_rows([[row._replace(groups=[changed, *row.groups[1:]])]])[0]
    assert after[1:] == before[1:] and after[0] != before[0]


def test_models_that_follow_the_mask_take_rows(scorer: Scorer) -> None:
    assert takes_rows(scorer._model, "cpu")


def test_a_model_that_does_not_follow_the_mask_takes_none(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BloomConfig, BloomForCausalLM, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {"vocab_size": 40, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    assert not takes_rows(BloomForCausalLM(BloomConfig(**sizes)).eval(), "cpu")  # its positions are made of a 2-D mask
    plain = LlamaForCausalLM.from_pretrained(tiny_model)
    assert takes_rows(plain, "cpu")
    forward = plain.forward

    def heedless(
        self: Any, *arguments: Any, attention_mask: Any = None, position_ids: Any = None, **options: Any
    ) -> Any:
        return forward(*arguments, position_ids=position_ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", heedless)
    heedless_model = LlamaForCausalLM.from_pretrained(tiny_model)
    assert not takes_rows(heedless_model, "cpu")
    plain.config._attn_implementation = "flash_attention_2"
    assert not takes_rows(plain, "cpu")


QUESTIONS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=5)), max_size=8
)


@given(QUESTIONS, st.integers(1, 8), st.sampled_from([0, 40, 512]))
def test_every_sequence_is_in_one_batch_and_no_row_is_too_long(
    questions: list[Any], batch_size: int, longest: int
) -> None:
    groups = [
        Group([subject, *range(100 * number, 100 * number + length), *([7000 + answer] * rest)], [[1]])
        for number, (subject, length, rests) in enumerate(questions)
        for answer, rest in enumerate(rests)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "ROW_TOKENS", longest)
        runs = find_runs(groups, rows=True)
    in_row = [run for run in runs if run.in_row]
    members = [index for run in runs for index in run.members]
    assert len(members) == len(set(members))
    batches = cut_rows(groups, in_row, batch_size)
    assert sorted(index for _, places in batches for index in places) == sorted(
        i for run in in_row for i in run.members
    )
    for batch, places in batches:
        assert [group for row in batch for group in row.groups] == [groups[index] for index in places]
        assert len(batch) == 1 or len(places) <= batch_size
        for row in batch:
            computed = {tuple(each.inputs[:end]) for each in row.groups for end in range(1, row.prefix + 1)}
            assert len(computed) == row.prefix  # the beginning is everybody's
            assert row_tokens(row) == row.prefix + sum(len(each.inputs) - row.prefix for each in row.groups) <= longest
    lengths = [row_tokens(row) for batch, _ in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_a_question_is_a_row_and_many_questions_after_long_examples_are_none() -> None:
    zero_shot = [
        Group([1, *range(100 * number, 100 * number + 80), *([9000 + answer] * 12)], [[5, 6]])
        for number in range(6)
        for answer in range(4)
    ]
    runs = find_runs(zero_shot, rows=True)
    assert {frozenset(run.members) for run in runs} == {frozenset(range(4 * n, 4 * n + 4)) for n in range(6)}
    assert all(run.in_row and run.prefix == 81 for run in runs)
    assert not any(run.in_row for run in find_runs(zero_shot))
    head = list(range(20_000, 21_000))
    few_shot = [Group([*head, *each.inputs], each.continuations) for each in zero_shot]
    assert [(run.prefix, run.in_row) for run in find_runs(few_shot, rows=True)] == [(1001, False)]
