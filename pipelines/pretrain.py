"""Stage ``pretrain``: a model from packed tokens, trained from fresh weights on Ray Train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from cluster.artifact import Artifact, local_copy
from cluster.errors import UserError
from cluster.stage import Outcome, Stage, StageContext
from pipelines.models.config import ModelConfig
from pipelines.train.config import Count, TrainConfig, resolve_training
from pipelines.train.refusals import refuse_layout

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.tokens.packing import TokenBlocks
    from pipelines.train.task import Batch, Samples

EIGHT_BITS = ("llama", "bert", "t5")
"""Our architectures that can compute in fp8."""

VALIDATION_DRAWS = 0x5EED
"""Seeds what is hidden in validation: the same whatever the recipe's seed, so that runs can be compared."""

STAGE = Stage(
    "pretrain",
    "Model",
    1,
    "pipelines.pretrain:run",
    resolve="pipelines.pretrain:resolve",
    check="pipelines.pretrain:check",
)


class PretrainConfig(ModelConfig, TrainConfig):
    """Recipe section ``pretrain``: which model, and how it is trained. One pass over the tokens by default."""

    tokens: Count | None = Field(None, ge=1, description="tokens to read, for example 1e6; or give steps or epochs")

    @model_validator(mode="after")
    def _check_layout(self) -> PretrainConfig:
        if self.precision == "fp8" and (self.own or self.architecture not in EIGHT_BITS):
            raise ValueError(
                f"precision fp8 is for {', '.join(EIGHT_BITS)}, whose layers are of torch's Linear, not for "
                f"{self.architecture}: set precision: auto"
            )
        if self.parallel.fixed > 1:
            shape = None if self.own else self.shape()
            refuse_layout(
                self,
                self.architecture,
                layers=shape.layers if shape else 1,
                heads=shape.heads if shape else 1,
                kv_heads=shape.kv_heads if shape else 1,
                intermediate=shape.intermediate if shape else 1,
                isolated=self.isolate_documents,
            )
        return self

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
    budget: dict[str, Any] = {}
    if config.tokens is not None and not config.generative:  # they were once those that are predicted
        budget = {"tokens_are": "read"}
    return resolve_training(config) | config.model_identity() | budget


def check(config: PretrainConfig, store: Store) -> None:
    """What needs no tokens to be refused.

    Raises:
        UserError: a class of the user's cannot be imported, is not a model, or does not take its options.
    """
    if config.own:
        from pipelines.models.own import own_class

        own_class(config.architecture, config.options)


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
        """The configured model with fresh weights."""
        from pipelines.models.build import build_model

        index = self.tokens.details["splits"]["train"]
        marks = {name: index[name] for name in ("bos_id", "eos_id", "pad_id")}
        model: torch.nn.Module = build_model(
            self.config, vocab_size=index["vocab_size"], max_positions=self.max_positions, **marks
        )
        return model

    def samples(self) -> tuple[Samples, Samples]:
        """Blocks of both splits, as the architecture learns from them."""
        from pipelines.tokens.packing import TokenBlocks

        train, validation = (TokenBlocks(self._tokens_folder / split) for split in ("train", "validation"))
        return self._samples(train, self.config.seed), self._samples(validation, VALIDATION_DRAWS)

    def _samples(self, blocks: TokenBlocks, seed: int) -> Samples:
        from pipelines.tokens.marks import read_marks
        from pipelines.train.blocks import BlockSamples
        from pipelines.train.masked import MaskedSamples
        from pipelines.train.spans import SpanSamples

        if self.config.architecture == "bert":
            marks = read_marks(self._tokenizer_folder)
            return MaskedSamples(blocks, marks, seed, isolate=self.config.isolate_documents)
        if self.config.architecture == "t5":
            return SpanSamples(blocks, read_marks(self._tokenizer_folder), seed)
        return BlockSamples(blocks, isolate=self.config.isolate_documents)

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export the model, and let it write a little."""
        from pipelines.models.export import export_model
        from pipelines.models.sampling import continue_texts, fill_texts

        device = next(model.parameters()).device
        inputs = probe.inputs.to(device)
        further = {name: value.to(device) for name, value in probe.arguments.items()}
        difference = export_model(model, self._tokenizer_folder, folder, inputs, further)
        if self.config.generative:
            samples = continue_texts(model, folder, seed=self.config.seed)
        else:
            samples = fill_texts(model, folder, inputs, probe.labels.to(device), further)
        return {"export_difference": difference, "samples": samples}


def run(config: PretrainConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Train and export; see :func:`check_inputs` and :func:`pipelines.train.launch.run_training` for what is raised."""
    from pipelines.train.launch import run_training
    from pipelines.train.results import training_outcome, write_metrics, write_report

    tokens, tokenizer = inputs["tokens"], inputs["tokenizer"]
    check_inputs(config, tokens, tokenizer, context.store)
    index = tokens.details["splits"]["train"]
    task = PretrainTask(config, tokens, tokenizer, config.max_positions or index["sequence_length"])
    training = run_training(task, context)
    baseline = tokens.metrics.get("validation.unigram_loss")
    details = training.summary["details"]
    page = write_report(
        training,
        "Pretraining",
        f"{config.title}, {training.summary['parameters']:,} parameters, from {tokens.id}",
        {"unigram perplexity": math.exp(baseline)} if baseline is not None else {},
    )
    page.heading("What it writes")
    for sample in details["samples"]:
        if "hidden" in sample:
            page.sample("it read", sample["prompt"])
            page.sample("what was hidden", sample["hidden"])
            page.sample("its guesses, each given the right ones before", sample["text"])
        else:
            page.sample(f"after “{sample['prompt']}”", sample["text"])
    context.output.write_text("report.html", page.render())
    write_metrics(training, context.output)
    outcome = training_outcome(training)
    outcome.licences = dict(tokens.licences)
    outcome.details = {
        "architecture": config.architecture,
        "shape": config.model_identity(),
        "vocabulary": {"tokens": index["vocab_size"], "rows": config.embedding_rows(index["vocab_size"])},
        "max_positions": task.max_positions,
    } | details
    return outcome


def check_inputs(config: PretrainConfig, tokens: Artifact, tokenizer: Artifact, store: Store) -> None:
    """Hold tokens, tokenizer and model against each other before anything starts.

    Raises:
        UserError: they do not belong together, or a class of the user's is not a model.
    """
    index = tokens.details["splits"]["train"]
    _check_tokenizer(tokens, tokenizer, index["vocab_size"])
    length = index["sequence_length"]
    if config.max_positions is not None and config.max_positions < length:
        raise UserError(
            f"max_positions {config.max_positions:,} is shorter than the tokens' blocks of {length:,}",
            where="pretrain.max_positions",
            next_step=f"set pretrain.max_positions: {length} or more, or lower tokens.sequence_length",
        )
    _check_objective(config, tokens, tokenizer, store)


def _check_tokenizer(tokens: Artifact, tokenizer: Artifact, vocab_size: int) -> None:
    """Refuse tokens of another tokenizer: their numbers would mean other texts.

    Raises:
        UserError: they were made with another one, or its vocabulary has another size.
    """
    made_with = tokens.inputs.get("tokenizer")
    if made_with and made_with.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the tokens were made with another tokenizer, {made_with.id}",
            where=f"{tokens.id}, {tokenizer.id}",
            next_step="name the tokenizer that the tokens were made with, or encode anew",
        )
    known = tokenizer.counts.get("vocab_size", vocab_size)
    if known != vocab_size:
        raise UserError(
            f"the tokens have a vocabulary of {vocab_size:,}, the tokenizer one of {known:,}",
            where=f"{tokens.id}, {tokenizer.id}",
            next_step="encode anew: `raymill run RECIPE --force tokens`",
        )


def _check_objective(config: PretrainConfig, tokens: Artifact, tokenizer: Artifact, store: Store) -> None:
    """Hold what the architecture needs against the tokenizer, and a class of the user's against its contract.

    Raises:
        UserError: something is missing.
    """
    index = tokens.details["splits"]["train"]
    length = index["sequence_length"]
    if config.own:
        from pipelines.models.own import check_own

        rows = config.embedding_rows(index["vocab_size"])
        check_own(config.architecture, config.options, vocab_size=rows, max_positions=config.max_positions or length)
    if config.architecture in ("bert", "t5"):
        from pipelines.tokens.marks import read_marks

        marks = read_marks(local_copy(store, tokenizer))
        if config.architecture == "bert" and marks.mask is None:
            raise UserError(
                "the tokenizer has no mask token, and bert learns by it",
                where=tokenizer.id,
                next_step="set tokenizer.mask_token: true",
            )
        if config.architecture == "t5":
            from pipelines.train.corruption import check_sentinels

            check_sentinels(length, len(marks.sentinels))
