"""Alignment as the training loop sees it; one task for pairs, one for answers of the model's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from cluster.artifact import Artifact, local_copy
from pipelines.align.config import AlignConfig
from pipelines.align.generation import Writer
from pipelines.align.guard import ADVICE, watch
from pipelines.align.sources import Base, is_function

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.align.answer_writers import EngineWriter
    from pipelines.finetune.examples.encode import Encoder
    from pipelines.train.group import Group
    from pipelines.train.task import Batch, Samples

EXAMPLES = 4
VALIDATION_DRAWS = 0x5EED
"""Added to the seed for answers to held-out prompts: the same in every validation, and not those of training."""


@dataclass
class AlignTask:
    """What both have in common. Pickled to the workers.

    Attributes:
        rows: split -> store key of its records as JSON lines.
        template: the chat template in place of the tokenizer's, as ``load_template`` gives it.
    """

    config: AlignConfig
    base: Base
    rows: dict[str, str]
    template: str | None = None
    where: str = "align"

    def prepare(self, store: Store) -> None:
        """Make the base available on this machine, and encode the records.

        Raises:
            UserError: naming the row that cannot be used.
        """
        from pipelines.align.encoding import Kept, encoder_of
        from pipelines.finetune.examples.records import parse_jsonl
        from pipelines.finetune.load import context_of, load_tokenizer

        self._folder, self._adapter = self.base.copy(store)
        # An adapter's folder has the tokenizer with the chat template that it was trained with.
        self._texts = self._adapter or self._folder
        self._tokenizer = load_tokenizer(self._texts)
        self._encoder: Encoder = encoder_of(self.config, self._tokenizer, self.template, context_of(self._folder))
        pad = self._tokenizer.pad_token_id
        self._pad = int(self._tokenizer.eos_token_id if pad is None else pad)
        self._kept: dict[str, Kept] = {
            split: self._encode(parse_jsonl(store.read(key).decode("utf-8"))) for split, key in self.rows.items()
        }

    def _encode(self, records: list[Any]) -> Any:
        raise NotImplementedError

    def _base_model(self) -> Any:
        from pipelines.align.weights import load_base

        return load_base(self._folder, self._adapter)

    def _keep_template(self, folder: Path) -> None:
        """The result is asked as it was trained."""
        if self.template is not None and self.template != "plain":
            from pipelines.models.stops import note_stops
            from pipelines.tokens.folder import set_chat_template

            set_chat_template(folder, self.template)
            if self.config.makes_writer:
                note_stops(folder)

    @property
    def _ends(self) -> list[int]:
        """What ends an answer in the chat template at work."""
        from pipelines.models.stops import ends_of

        return [] if self.template == "plain" else ends_of(self._tokenizer, self.template)

    @property
    def advice(self) -> str:
        """What helps against collapse."""
        return ADVICE

    def watch(self, figures: Mapping[str, float], memory: dict[str, Any]) -> str | None:
        """The guard against collapse."""
        return watch(figures, memory, self.config.guard)

    def _lengths(self) -> dict[str, Any]:
        """What came of rows that are too long."""
        from pipelines.finetune.load import left_out

        return left_out(self._kept.values())


class PairTask(AlignTask):
    """Reward model, DPO and SimPO."""

    def _encode(self, records: list[Any]) -> Any:
        from pipelines.align.encoding import encode_pairs

        return encode_pairs(self._encoder, records)

    def model(self) -> torch.nn.Module:
        """The base, or a scorer made of it, with what is trained."""
        from pipelines.align.weights import as_scorer, trainable

        base = self._base_model()
        scorer = as_scorer(base, self._pad) if self.config.method == "reward" else base
        model: torch.nn.Module = trainable(scorer, self.config)
        return model

    def samples(self) -> tuple[Samples, Samples]:
        """Pairs of both splits."""
        from pipelines.align.pairs import PairSamples

        whole = self.config.method == "reward"
        train, validation = (
            PairSamples(self._kept[split].encoded, self._pad, whole=whole) for split in ("train", "validation")
        )
        return train, validation

    def objective(self, model: torch.nn.Module, group: Group) -> torch.nn.Module:
        """The method's loss."""
        from pipelines.align.preference_objectives import PairObjective, RankingObjective
        from pipelines.align.reference import Reference

        config = self.config
        if config.method == "reward":
            return RankingObjective(model)
        reference = Reference(model) if config.method == "dpo" else None
        method = cast(Literal["dpo", "simpo"], config.method)
        return PairObjective(model, method, reference, beta=config.strength, margin=config.margin)

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export; a reward model with its scores of held-out answers, another with answers before and after."""
        from pipelines.align.weights import export_aligned, export_scorer

        inputs = probe.inputs.to(next(model.parameters()).device)
        held_out = self._kept["validation"].records[:EXAMPLES]
        told: dict[str, Any] = self._lengths()
        if self.config.method == "reward":
            told["export_difference"] = export_scorer(model, self._texts, folder, inputs)
            self._keep_template(folder)
            return told | {"examples": self._scored(folder, held_out, inputs.device)}
        before = self._answers(self._base_model().to(inputs.device), held_out)
        told["export_difference"] = export_aligned(model, self._texts, folder, inputs)
        self._keep_template(folder)
        from pipelines.models.export import load_exported

        after = self._answers(load_exported(folder).to(inputs.device), held_out)
        examples = [
            {"question": pair.prompt[-1].content, "preferred": pair.chosen, "before": first, "after": second}
            for pair, first, second in zip(held_out, before, after, strict=True)
        ]
        return told | {"examples": examples}

    def _answers(self, model: Any, pairs: list[Any]) -> list[str]:
        from pipelines.models.sampling import answer

        prompts = [self._encoder.renderer.prompt(pair.prompt) for pair in pairs]
        return answer(model, self._texts, prompts, ends=self._ends)

    def _scored(self, folder: Path, pairs: list[Any], device: Any) -> list[dict[str, Any]]:
        from pipelines.align.rewards import ModelReward

        scorer = ModelReward(folder, "the new model", self.template, device)
        prompts = [pair.prompt for pair in pairs]
        sides = [scorer.scores(prompts, [getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]
        return [
            {"question": pair.prompt[-1].content, "preferred": pair.chosen, "score": good, "other": pair.rejected}
            | {"its score": bad}
            for pair, good, bad in zip(pairs, *sides, strict=True)
        ]


@dataclass
class RolloutTask(AlignTask):
    """GRPO and PPO.

    Attributes:
        scorer: the reward model; None where the reward is a function or a folder.
        writer: what writes the answers.
    """

    scorer: Artifact | None = None
    writer: Writer = "transformers"

    def prepare(self, store: Store) -> None:
        """As :meth:`AlignTask.prepare`, and the reward."""
        super().prepare(store)
        self._scorer_folder = local_copy(store, self.scorer) if self.scorer else None
        self._engine_writer: EngineWriter | None = None

    def _encode(self, records: list[Any]) -> Any:
        from pipelines.align.encoding import encode_prompts

        return encode_prompts(self._encoder, records, self.config.answer_tokens)

    def model(self) -> torch.nn.Module:
        """The base with what is trained, and for PPO a value head."""
        from pipelines.align.actor import add_value_head
        from pipelines.align.weights import trainable

        model: torch.nn.Module = trainable(self._base_model(), self.config)
        if self.config.method == "ppo":
            add_value_head(model)
        return model

    def samples(self) -> tuple[Samples, Samples]:
        """Prompts of both splits, whose answers are drawn while training."""
        from pipelines.align.rollouts import RolloutSamples

        made = []
        for split, more in (("train", 0), ("validation", VALIDATION_DRAWS)):
            made.append(
                RolloutSamples(
                    self._kept[split].encoded,
                    decode=self._decode,
                    stops=self._stops(),
                    pad_id=self._pad,
                    config=self.config,
                    seed=self.config.seed + more,
                )
            )
        self._rollouts = made
        return made[0], made[1]

    def objective(self, model: torch.nn.Module, group: Group) -> torch.nn.Module:
        """The method's loss; from here on the samples know who answers, and what answers are worth."""
        from pipelines.align.actor import Actor
        from pipelines.align.answer_writers import EngineWriter, start_engine

        config = self.config
        actor = Actor.of(model, config)
        reward = self._reward(group.device)
        if self.writer == "vllm":
            engine, dtype = start_engine(model, config, self._encoder.length, group.device, dict(os.environ))
            self._engine_writer = EngineWriter(actor, config, engine, dtype)
        for samples in self._rollouts:
            samples.connect(actor, reward, self._engine_writer)
        return actor

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export, with some answers of the last validation and what they were worth; an engine is not needed longer."""
        from pipelines.align.weights import export_aligned

        if self._engine_writer:
            self._engine_writer.close()
        inputs = probe.inputs.to(next(model.parameters()).device)
        examples = self._rollouts[1].texts(EXAMPLES)
        difference = export_aligned(model, self._texts, folder, inputs)
        self._keep_template(folder)
        return self._lengths() | {"export_difference": difference, "examples": examples}

    def _reward(self, device: Any) -> Any:
        from pipelines.align.rewards import FunctionReward, ModelReward

        name = str(self.config.reward)
        if self.scorer is None and is_function(name):
            return FunctionReward(name)
        folder = self._scorer_folder or Path(name).expanduser()
        return ModelReward(folder, name, self.template, device)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _stops(self) -> list[int]:
        from pipelines.models.stops import stop_ids

        return sorted({*stop_ids(self._texts), *self._ends})
