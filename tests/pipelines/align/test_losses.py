"""Losses and advantages against values worked out by hand, against definitions, and against trl's own code."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.align.advantages import generalised, within_groups
from pipelines.align.losses import (
    clipped_policy,
    clipped_value,
    divergences,
    dpo,
    entropies,
    ranking,
    simpo,
    token_logprobs,
)
from pipelines.align.preference_objectives import PairObjective
from pipelines.align.reference import Reference
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.train.task import IGNORED


def softplus(value: float) -> float:
    """-log(sigmoid(-value)), in plain floats."""
    return math.log1p(math.exp(value))


def test_dpo_is_the_papers_equation() -> None:
    """beta 0.1: the margins are 0.1 * (3 - -2) = 0.5 and 0.1 * (-4 - 1) = -0.5."""
    found = dpo(torch.tensor([3.0, -4.0]), torch.tensor([-2.0, 1.0]), 0.1)
    assert found.losses.tolist() == pytest.approx([softplus(-0.5), softplus(0.5)])
    assert found.losses.tolist() == pytest.approx([0.4740770, 0.9740770], abs=1e-6)
    assert found.chosen_rewards.tolist() == pytest.approx([0.3, -0.4])
    assert found.rejected_rewards.tolist() == pytest.approx([-0.2, 0.1])


def test_simpo_is_the_papers_equation() -> None:
    """beta 2, margin 1: 2 * (-0.5 - -1.5) - 1 = 1."""
    found = simpo(torch.tensor([-0.5]), torch.tensor([-1.5]), 2.0, 1.0)
    assert found.losses.tolist() == pytest.approx([softplus(-1.0)])
    assert found.losses.tolist() == pytest.approx([0.3132617], abs=1e-6)


def test_ranking_is_bradley_and_terrys() -> None:
    """The probability that the first is better is 1 / (1 + exp(-(2 - 0.5)))."""
    assert ranking(torch.tensor([2.0]), torch.tensor([0.5])).losses.tolist() == pytest.approx(
        [-math.log(1 / (1 + math.exp(-1.5)))]
    )


def test_logprobs_entropy_and_divergence_of_a_distribution_that_can_be_worked_out() -> None:
    shares, others = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    logits = torch.log(torch.tensor([[shares, shares]])) + 3.0
    reference = torch.log(torch.tensor([[others, others]])) - 1.0
    assert token_logprobs(logits, torch.tensor([[1, IGNORED]])).tolist() == [pytest.approx([math.log(0.25), 0.0])]
    assert entropies(logits)[0].tolist() == pytest.approx([1.5 * math.log(2)] * 2, abs=1e-6)
    assert divergences(logits, reference)[0].tolist() == pytest.approx([0.25 * math.log(2)] * 2, abs=1e-6)


def test_the_clip_takes_the_gradient_only_where_a_step_would_go_on_too_far() -> None:
    """Rows: within; too likely and good; too likely and bad; too unlikely and good; too unlikely and bad."""
    ratios, advantages = torch.tensor([1.1, 1.5, 1.5, 0.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0])
    logprobs = torch.log(ratios).requires_grad_()
    losses = clipped_policy(logprobs, torch.zeros(5), advantages, 0.2)
    assert losses.tolist() == pytest.approx([-1.1, -1.2, 1.5, -0.5, 0.8])
    losses.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.1, 0.0, 1.5, -0.5, 0.0])


def test_a_value_may_not_get_better_by_moving_far() -> None:
    values = torch.tensor([0.1, 1.0])
    losses = clipped_value(values, torch.zeros(2), torch.ones(2), 0.2)
    assert losses.tolist() == pytest.approx([0.5 * 0.9**2, 0.5 * 0.8**2])


@pytest.mark.parametrize(("discount", "trace"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0)])
def test_generalised_advantages_are_their_definition(discount: float, trace: float) -> None:
    """The sum over later surprises, each (discount * trace)^steps less; written out as two loops."""
    draw = np.random.default_rng(3)
    rewards, values = draw.normal(size=7), draw.normal(size=7)
    expected = []
    for place in range(7):
        total = 0.0
        for later in range(place, 7):
            following = values[later + 1] if later + 1 < 7 else 0.0
            total += (discount * trace) ** (later - place) * (rewards[later] + discount * following - values[later])
        expected.append(total)
    assert generalised(rewards, values, discount, trace) == pytest.approx(expected)


def test_with_a_full_trace_an_advantage_is_what_came_less_what_was_expected() -> None:
    rewards, values = np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.25, 3.0])
    assert generalised(rewards, values, 1.0, 1.0) == pytest.approx([3.0 - 0.5, 2.0 - 0.25, 2.0 - 3.0])


def test_groups_are_compared_within_themselves() -> None:
    rewards = np.array([[1.0, 3.0], [100.0, 100.0]])
    assert within_groups(rewards, scale=False).tolist() == [[-1.0, 1.0], [0.0, 0.0]]
    scaled = within_groups(rewards, scale=True)
    assert scaled[0] == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)], abs=1e-3)
    assert scaled[1].tolist() == [0.0, 0.0]


def llama(seed: int, vocabulary: int = 300) -> Any:
    torch.manual_seed(seed)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    return build_llama(shape, vocab_size=vocabulary, max_positions=64, bos_id=0, eos_id=1, pad_id=2)


def test_a_pair_that_carries_no_loss_counts_for_nothing() -> None:
    inputs = torch.randint(3, 300, (4, 6), generator=torch.Generator().manual_seed(0))
    labels = inputs.roll(-1, 1)
    labels[:, 0] = IGNORED
    model = llama(0)
    reference = Reference(llama(1))
    objective = PairObjective(model, "dpo", reference, beta=0.5, margin=0.0)
    silent = labels.clone()
    silent[[1, 3]] = IGNORED
    with torch.no_grad():
        both, sums = objective(inputs, silent, {})
        alone, alone_sums = objective(inputs[[0, 2]], labels[[0, 2]], {})
        nothing, none_summed = objective(inputs, torch.full_like(labels, IGNORED), {})
    assert float(both) == pytest.approx(float(alone), abs=1e-6)
    assert sums.tolist() == pytest.approx(alone_sums.tolist(), abs=1e-5)
    assert float(nothing) == 0
    assert not none_summed.any()


def test_the_reference_of_adapters_is_the_model_without_them() -> None:
    from peft import LoraConfig, get_peft_model

    inputs = torch.randint(3, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    labels = inputs.roll(-1, 1)
    labels[:, 0] = IGNORED
    whole = llama(0)
    adapted = get_peft_model(llama(0), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    shared = PairObjective(adapted, "dpo", Reference(adapted), beta=0.5, margin=0.0)
    copied = PairObjective(adapted, "dpo", Reference(whole), beta=0.5, margin=0.0)
    with torch.no_grad():
        first, second = shared(inputs, labels, {}), copied(inputs, labels, {})
    assert float(first[0]) == pytest.approx(float(second[0]), abs=1e-5)
    assert first[1].tolist() == pytest.approx(second[1].tolist(), abs=1e-5)
    assert float(first[0]) != pytest.approx(math.log(2), abs=1e-3)  # the adapters do change something


TRL = "trl is not installed here: it is in the extra `dev`"


def test_dpos_loss_and_figures_are_trls(tmp_path: Any) -> None:
    pytest.importorskip("trl", reason=TRL)
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from pipelines.tokens.folder import write_folder
    from pipelines.tokens.learn import learn_bpe

    (tmp_path / "tokenizer").mkdir()
    write_folder(learn_bpe(["good words", "bad words"] * 3, 300, 2), tmp_path / "tokenizer")
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = {
        "prompt": ["which words", "more words", "and"],
        "chosen": [" good words", " good", " words that are good"],
        "rejected": [" bad", " bad words and bad", " bad words"],
    }
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"),
        beta=0.3,
        per_device_train_batch_size=3,
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    model, reference = llama(0), llama(1)
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model.train(), dict(batch))
    labels = torch.where(batch["completion_mask"].bool(), batch["input_ids"], IGNORED)[:, 1:]
    objective = PairObjective(llama(0), "dpo", Reference(llama(1)), beta=0.3, margin=0.0)
    with torch.no_grad():
        ours, sums = objective(batch["input_ids"][:, :-1], labels, {})
    assert float(ours) / 3 == pytest.approx(float(theirs), abs=1e-6)
    measured = dict(zip(objective.figures, (sums[1:] / 3).tolist(), strict=True))
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    assert measured["margin"] == pytest.approx(logged["rewards/margins"], abs=1e-5)
    assert measured["accuracy"] == pytest.approx(logged["rewards/accuracies"])
    assert measured["chosen_reward"] == pytest.approx(logged["rewards/chosen"], abs=1e-5)


def test_simpos_loss_is_trls() -> None:
    pytest.importorskip("trl", reason=TRL)
    from trl.experimental.cpo import CPOTrainer

    draw = torch.Generator().manual_seed(5)
    chosen, rejected = -torch.rand(6, generator=draw) * 4, -torch.rand(6, generator=draw) * 4
    settings = SimpleNamespace(
        alpha=0.0,
        beta=2.5,
        simpo_gamma=0.75,
        label_smoothing=0.0,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    theirs, good, bad = CPOTrainer.cpo_loss(settings, chosen, rejected)
    ours = simpo(chosen, rejected, 2.5, 0.75)
    assert torch.allclose(ours.losses, theirs, atol=1e-6)
    assert torch.allclose(ours.chosen_rewards, good)
    assert torch.allclose(ours.rejected_rewards, bad)
