"""Masked tokens and corrupted spans against the papers' rules, transformers' collator and plain rewritings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from pipelines.tokens.marks import Marks
from pipelines.tokens.packing import Packer, TokenBlocks
from pipelines.train.corruption import check_sentinels, noise_counts, target_length
from pipelines.train.masked import MaskedSamples, mask_tokens, masked_count, visit_draw
from pipelines.train.spans import SpanSamples, corrupt, noise_mask
from pipelines.train.task import IGNORED

BOS, EOS, PAD, MASK, VOCABULARY = 0, 1, 2, 3, 500
SENTINELS = tuple(range(4, 54))
MARKS = Marks(BOS, EOS, PAD, MASK, SENTINELS, frozenset([BOS, EOS, PAD, MASK, *SENTINELS]))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    """Sixty documents of 1 to 60 tokens in blocks of 64; the last block is not full."""
    folder = tmp_path_factory.mktemp("blocks")
    draw = np.random.default_rng(5)
    packer = Packer(folder, vocab_size=VOCABULARY, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    for number in range(60):
        packer.add(f"d{number}", np.array([BOS, *draw.integers(60, VOCABULARY, number + 1), EOS]))
    packer.finish(64)
    found = TokenBlocks(folder)
    assert found.targets(np.array([len(found) - 1])) < 64
    return found


def test_masking_has_the_papers_rates() -> None:
    """80 % mask, 10 % random, 10 % kept of exactly 15 %; every ordinary token is as likely."""
    tokens, ordinary = np.arange(100, 200), np.ones(100, bool)
    ordinary[::10] = False
    masked = random = kept = 0
    places = np.zeros(100, int)
    rounds = 4000
    for visit in range(rounds):
        inputs, labels = mask_tokens(tokens, ordinary, visit_draw(1, visit), MASK, VOCABULARY)
        chosen = labels != IGNORED
        assert chosen.sum() == masked_count(90) == 14  # round(13.5), as Python and the paper's code round
        assert not chosen[::10].any()
        assert (labels[chosen] == tokens[chosen]).all()
        assert (inputs[~chosen] == tokens[~chosen]).all()
        masked += int((inputs[chosen] == MASK).sum())
        kept += int((inputs[chosen] == tokens[chosen]).sum())
        random += int(((inputs[chosen] != MASK) & (inputs[chosen] != tokens[chosen])).sum())
        places += chosen
    total = masked + random + kept
    # Five standard deviations; a random token may be the mask or the token itself once in 500.
    for count, rate in ((masked, 0.8), (random, 0.1), (kept, 0.1)):
        assert count / total == pytest.approx(rate, abs=5 * (rate * (1 - rate) / total) ** 0.5 + 0.001)
    expected = rounds * 14 / 90
    assert np.abs(places[ordinary] - expected).max() < 5 * expected**0.5


def test_masking_agrees_with_transformers_collator(blocks: TokenBlocks) -> None:
    """The share of each fate is that of DataCollatorForLanguageModeling on the same blocks."""
    from transformers import DataCollatorForLanguageModeling

    class Tokenizer:
        """What the collator asks of a tokenizer."""

        mask_token, mask_token_id, pad_token, pad_token_id = "<|mask|>", MASK, "<|pad|>", PAD

        def __len__(self) -> int:
            return VOCABULARY

        def get_special_tokens_mask(self, ids: list[int], already_has_special_tokens: bool) -> list[int]:
            return [int(each in MARKS.special) for each in ids]

        def convert_tokens_to_ids(self, token: str) -> int:
            return MASK

    full = np.arange(len(blocks) - 1)
    tokens = torch.from_numpy(blocks.read(full)[:, :-1])
    collator: Any = DataCollatorForLanguageModeling.__new__(DataCollatorForLanguageModeling)
    collator.tokenizer, collator.mlm_probability, collator.seed, collator.generator = Tokenizer(), 0.15, None, None
    collator.mask_replace_prob, collator.random_replace_prob, collator.whole_word_mask = 0.8, 0.1, False
    samples = MaskedSamples(blocks, MARKS, seed=3)
    ours, theirs = np.zeros(4), np.zeros(4)
    torch.manual_seed(1)
    for epoch in range(120):
        batch = samples.batch(full + epoch * len(blocks))
        ours += fates(tokens, batch.inputs, batch.labels)
        theirs += fates(tokens, *collator.torch_mask_tokens(tokens.clone()))
    for one, other in zip(ours / ours.sum(), theirs / theirs.sum(), strict=True):
        assert one == pytest.approx(other, abs=5 * (one * (1 - one) * 2 / ours.sum()) ** 0.5)


def fates(tokens: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> Any:
    """Positions not predicted, read as the mask, as themselves, as something else."""
    hidden = labels != IGNORED
    mask, same = hidden & (inputs == MASK), hidden & (inputs == tokens)
    return np.array([int(each.sum()) for each in (~hidden, mask, same, hidden & ~mask & ~same)])


def test_masked_blocks_predict_no_marks_and_no_padding(blocks: TokenBlocks) -> None:
    samples = MaskedSamples(blocks, MARKS, seed=3)
    everything = np.arange(len(samples))
    batch = samples.batch(everything)
    predicted = batch.labels != IGNORED
    assert samples.targets(everything) == int(predicted.sum())
    assert samples.tokens_of(everything) == blocks.index.tokens
    assert not np.isin(batch.labels[predicted].numpy(), list(MARKS.special)).any()
    last = int(blocks.lengths(everything)[-1])
    assert batch.arguments["attention_mask"][-1].tolist() == [True] * last + [False] * (64 - last)
    assert "attention_mask" not in samples.batch(everything[:-1]).arguments


@pytest.mark.parametrize("kind", [MaskedSamples, SpanSamples])
def test_what_is_hidden_depends_on_seed_and_visit_alone(blocks: TokenBlocks, kind: Any) -> None:
    samples, size = kind(blocks, MARKS, 3), len(blocks)
    together = samples.batch(np.array([0, 1, 2]))
    alone = samples.batch(np.array([1]))
    assert torch.equal(together.inputs[1], alone.inputs[0])
    assert torch.equal(together.labels[1], alone.labels[0])
    assert not torch.equal(samples.batch(np.array([1 + size])).inputs, alone.inputs)
    assert not torch.equal(kind(blocks, MARKS, 4).batch(np.array([1])).inputs, alone.inputs)
    # Targets are counted without drawing, and a later visit has as many.
    for visit in range(2 * size):
        labels = samples.batch(np.array([visit])).labels
        assert samples.targets(np.array([visit])) == int((labels != IGNORED).sum())


# T5's code (t5/data/preprocessors.py: random_spans_helper) documents that 568 tokens become 512 and 114.
def test_a_block_becomes_as_long_as_the_papers_code_says() -> None:
    assert noise_counts(568) == (85, 28)
    tokens = np.arange(1000, 1568)
    source, target = corrupt(tokens, noise_mask(568, visit_draw(0, 0)), np.arange(100), EOS)
    assert (len(source), len(target)) == (512, 114)
    assert target_length(568) == 114


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 600), st.integers(0, 10_000))
def test_corrupted_spans_are_those_of_the_papers_code(length: int, visit: int) -> None:
    noise = noise_mask(length, visit_draw(7, visit))
    tokens = np.arange(1000, 1000 + length)
    source, target = corrupt(tokens, noise, np.arange(100, 200), EOS)
    # An oracle in plain Python: walk the runs.
    expected_source: list[int] = []
    expected_target: list[int] = []
    number = 100
    for hidden, run in itertools.groupby(zip(noise.tolist(), tokens.tolist(), strict=True), key=lambda pair: pair[0]):
        values = [value for _, value in run]
        if hidden:
            expected_source.append(number)
            expected_target += [number, *values]
            number += 1
        else:
            expected_source += values
    assert source.tolist() == [*expected_source, EOS]
    assert target.tolist() == [*expected_target, EOS]
    hidden_tokens, spans = noise_counts(length)
    assert noise.sum() == hidden_tokens
    assert number - 100 == spans
    assert not noise[0]


def test_spans_are_drawn_evenly() -> None:
    """As _random_segmentation of the paper's code does: every cut of the total into parts is as likely."""
    from collections import Counter

    seen = Counter(tuple(noise_mask(30, visit_draw(2, visit)).nonzero()[0].tolist()) for visit in range(6000))
    # 30 tokens: 4 left out (round(4.5) is 4) in 1 span, which begins after 26 others: it can only stand at the end.
    assert seen == {(26, 27, 28, 29): 6000}
    spans = Counter(
        tuple(len(list(run)) for hidden, run in itertools.groupby(noise_mask(40, visit_draw(2, visit))) if hidden)
        for visit in range(6000)
    )
    assert set(spans) == {(1, 5), (2, 4), (3, 3), (4, 2), (5, 1)}
    assert max(abs(count - 1200) for count in spans.values()) < 5 * 1200**0.5


def test_span_blocks_teach_the_decoder(blocks: TokenBlocks) -> None:
    samples = SpanSamples(blocks, MARKS, seed=3)
    everything = np.arange(len(samples))
    batch = samples.batch(everything)
    decoder = batch.arguments["decoder_input_ids"]
    assert (decoder[:, 0] == PAD).all()
    for row in range(len(everything)):
        wanted = batch.labels[row][batch.labels[row] != IGNORED]
        assert decoder[row, 1 : len(wanted)].tolist() == wanted[:-1].tolist()
        assert int(wanted[-1]) == EOS
    assert samples.tokens_of(everything) == blocks.index.tokens
    last = int(batch.arguments["attention_mask"][-1].sum())
    assert last < batch.inputs.shape[1]
    assert (batch.inputs[-1, last:] == PAD).all()


def test_too_few_sentinels_are_refused() -> None:
    check_sentinels(512, 26)
    with pytest.raises(UserError, match=r"26 spans to leave out, and the tokenizer has no sentinels") as caught:
        check_sentinels(512, 0)
    assert "tokenizer.sentinels: 26" in caught.value.next_step


def test_a_block_of_nothing_but_marks_still_has_a_target(tmp_path: Path) -> None:
    packer = Packer(tmp_path, vocab_size=VOCABULARY, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    packer.add("d", np.array([BOS, EOS]))
    packer.finish(8)
    samples = MaskedSamples(TokenBlocks(tmp_path), MARKS, seed=1)
    assert samples.targets(np.array([0])) == 1
