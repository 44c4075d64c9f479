"""Stage ``pretrain``: a model from packed tokens, trained from fresh weights on Ray Train."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.artifact import Artifact, local_copy
from cluster.errors import UserError
from cluster.stage import Outcome, Stage, StageContext
from pipelines.models.config import ModelConfig
from pipelines.train.config import Count, TrainConfig, resolve_training

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.train.task import Batch, Samples

STAGE = Stage("pretrain", "Model", 1, "pipelines.pretrain:run", resolve="pipelines.pretrain:resolve")


class PretrainConfig(ModelConfig, TrainConfig):
    """Recipe section ``pretrain``: which model, and how it is trained. One pass over the tokens by default."""

    tokens: Count | None = Field(None, ge=1, description="tokens to train on, for example 1e6; or give steps or epochs")

    def budget_fields(self) -> tuple[str, ...]:
        """The fields of which at most one is given."""
        return ("steps", "tokens", "epochs")

    def total_steps(self, sequences: int, tokens_per_sequence: float) -> int:
        """Optimiser steps; a budget in tokens is rounded up to whole batches."""
        if self.tokens is not None:
            return max(math.ceil(self.tokens / (self.batch_sequences * tokens_per_sequence)), 1)
        return super().total_steps(sequences, tokens_per_sequence)


def resolve(config: PretrainConfig) -> dict[str, Any]:
    """Identity fields that presets and ``auto`` became."""
    return resolve_training(config) | asdict(config.shape())


@dataclass
class PretrainTask:
    """Pretraining as the loop sees it; pickled to the workers."""

    config: PretrainConfig
    tokens: Artifact
    tokenizer: Artifact
    max_positions: int
    where: str = "pretrain"

    def prepare(self, store: Store) -> None:
        """Make the tokens and the tokenizer available on this machine."""
        self._tokens_folder = local_copy(store, self.tokens)
        self._tokenizer_folder = local_copy(store, self.tokenizer)

    def model(self) -> torch.nn.Module:
        """A Llama with fresh weights."""
        from pipelines.models.llama import build_llama

        index = self.tokens.details["splits"]["train"]
        return build_llama(
            self.config.shape(),
            vocab_size=index["vocab_size"],
            max_positions=self.max_positions,
            bos_id=index["bos_id"],
            eos_id=index["eos_id"],
            pad_id=index["pad_id"],
        )

    def samples(self) -> tuple[Samples, Samples]:
        """Blocks of both splits."""
        from pipelines.tokens.packing import TokenBlocks
        from pipelines.train.blocks import BlockSamples

        train, validation = (
            BlockSamples(TokenBlocks(self._tokens_folder / split)) for split in ("train", "validation")
        )
        return train, validation

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export the model, and let it write a little."""
        from pipelines.models.export import export_model
        from pipelines.models.sampling import continue_texts

        difference = export_model(model, self._tokenizer_folder, folder, probe.inputs.to(model.device))
        return {"export_difference": difference, "samples": continue_texts(model, folder, seed=self.config.seed)}


def run(config: PretrainConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Train and export; see :func:`pipelines.train.launch.run_training` for what is raised besides.

    Raises:
        UserError: the model's context is shorter than the tokens' blocks.
    """
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_report

    tokens, tokenizer = inputs["tokens"], inputs["tokenizer"]
    index = tokens.details["splits"]["train"]
    if tokens.inputs.get("tokenizer") and tokens.inputs["tokenizer"].fingerprint != tokenizer.fingerprint:
        raise UserError(
            "the tokens were made with another tokenizer",
            where=f"{tokens.id}, {tokenizer.id}",
            next_step="name the tokenizer that the tokens were made with, or encode anew",
        )
    length = index["sequence_length"]
    if config.max_positions is not None and config.max_positions < length:
        raise UserError(
            f"max_positions {config.max_positions:,} is shorter than the tokens' blocks of {length:,}",
            where="pretrain.max_positions",
            next_step=f"set pretrain.max_positions: {length} or more, or lower tokens.sequence_length",
        )
    task = PretrainTask(config, tokens, tokenizer, config.max_positions or length)
    training = run_training(task, context)
    baseline = tokens.metrics.get("validation.unigram_loss")
    details = training.summary["details"]
    page = write_report(
        training,
        "Pretraining",
        f"Llama {config.size}, {training.summary['parameters']:,} parameters, from {tokens.id}",
        {"unigram perplexity": math.exp(baseline)} if baseline is not None else {},
    )
    page.heading("What it writes")
    for sample in details["samples"]:
        page.sample(f"after “{sample['prompt']}”", sample["text"])
    context.output.write_text("report.html", page.render())
    context.output.write_text("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in training.records))
    outcome = training_outcome(training)
    outcome.licences = dict(tokens.licences)
    outcome.details = {"shape": asdict(config.shape()), "max_positions": task.max_positions} | details
    return outcome
