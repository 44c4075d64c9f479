"""Recipe section ``align``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import execution, identity_fields
from cluster.errors import UserError
from cluster.stage import Stage
from pipelines.align.guard import GuardConfig
from pipelines.finetune.examples.config import Rows, Subset, rows_identity
from pipelines.train.config import Count, TrainConfig, resolve_training

ENTRY, RESOLVE, CHECK = (
    "pipelines.align.stage:run",
    "pipelines.align.config:resolve",
    "pipelines.align.early:check",
)
MODEL_STAGE = Stage("align", "Model", 2, ENTRY, resolve=RESOLVE, check=CHECK)
REWARD_STAGE = Stage("align", "RewardModel", 2, ENTRY, resolve=RESOLVE, check=CHECK)

ON_PAIRS = ("reward", "dpo", "simpo")
ON_POLICY = ("grpo", "ppo")

OWNERS: dict[str, tuple[str, ...]] = {
    "beta": ("dpo", "simpo", "grpo", "ppo"),
    "margin": ("simpo",),
    "reward": ON_POLICY,
    "answers_per_prompt": ON_POLICY,
    "answer_tokens": ON_POLICY,
    "temperature": ON_POLICY,
    "updates_per_rollout": ON_POLICY,
    "clip": ON_POLICY,
    "cut_penalty": ON_POLICY,
    "generation": ON_POLICY,
    "generation_memory": ON_POLICY,
    "scale_rewards": ("grpo",),
    "discount": ("ppo",),
    "trace": ("ppo",),
    "value_coefficient": ("ppo",),
    "value_clip": ("ppo",),
}
"""Keys that only some methods have."""

BETA = {"dpo": 0.1, "simpo": 2.0, "grpo": 0.04, "ppo": 0.04}
ANSWERS = {"grpo": 8, "ppo": 1}


class AlignConfig(TrainConfig):
    """Recipe section ``align``: teach a model what people prefer, from pairs of answers or from a reward."""

    method: Literal["reward", "dpo", "simpo", "grpo", "ppo"] = Field(
        "dpo",
        description="reward: a model that scores answers; dpo, simpo: from pairs, with and without a reference; grpo, "
        "ppo: from the model's own answers and their reward",
    )
    model: str | None = Field(
        None,
        min_length=1,
        json_schema_extra={"identity": False},  # what it is enters as the input `model`
        description="a Hugging Face folder, hf://organisation/name or a Model's artifact id; by default what finetune "
        "makes, or pretrain",
    )
    data: Rows | None = Field(
        None, description="rows with prompt, chosen and rejected; for grpo and ppo any rows with prompts"
    )
    chat_template: str | None = Field(
        None, description="Jinja text, a file with it, or plain; by default the tokenizer's own"
    )
    subset: Subset = Field(
        None, description="a cheap trial: use so many pairs or prompts, or this share of them below 1, by a stable hash"
    )
    too_long: Literal["refuse", "drop", "left", "right"] = Field(
        "refuse",
        description="pairs and prompts that do not fit: refuse names the first, drop leaves them out, left and right "
        "shorten what is asked from its beginning or end",
    )
    validation_fraction: float = Field(0.1, gt=0, lt=0.5, description="share held out, by a stable hash of the prompt")
    sequence_length: int | None = Field(
        None, ge=8, description="most tokens of a prompt with its answer; by default the model's context"
    )
    weights: Literal["lora", "full"] = Field(
        "lora", description="lora: train adapters, which are merged at the end; full: all weights, beside a frozen copy"
    )
    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float = Field(32.0, gt=0, description="the adapters' output is scaled by alpha / rank")
    beta: float | None = Field(
        None,
        ge=0,
        validate_default=False,
        description="how hard the reference pulls: dpo 0.1; grpo and ppo 0.04 reward a nat of KL divergence; simpo "
        "2.0, the scale of the mean log-probability",
    )
    margin: float = Field(1.0, ge=0, description="simpo: by how much the preferred answer is to be ahead")
    reward: str | None = Field(
        None,
        description="grpo, ppo: module:function given prompts and answers, a RewardModel's id, or a model's folder",
    )
    answers_per_prompt: Count | None = Field(
        None,
        ge=1,
        validate_default=False,
        description="answers drawn to each prompt: grpo 8, which are compared; ppo 1",
    )
    answer_tokens: Count = Field(64, ge=1, description="grpo, ppo: most tokens of an answer")
    temperature: float = Field(1.0, gt=0, description="grpo, ppo: what answers are drawn with")
    updates_per_rollout: Count = Field(1, ge=1, description="grpo, ppo: optimiser steps on the answers of one drawing")
    clip: float = Field(0.2, gt=0, lt=1, description="grpo, ppo: how far a token's probability counts as moved")
    cut_penalty: float = Field(
        0.0, ge=0, description="grpo, ppo: taken from the reward of an answer that does not end within answer_tokens"
    )
    scale_rewards: bool = Field(True, description="grpo: divide by the deviation of a prompt's rewards")
    discount: float = Field(1.0, gt=0, le=1, description="ppo: what a reward one token later is worth (gamma)")
    trace: float = Field(0.95, ge=0, le=1, description="ppo: how far advantages look ahead (lambda)")
    value_coefficient: float = Field(0.1, ge=0, description="ppo: weight of the value head's error")
    value_clip: float = Field(0.2, gt=0, description="ppo: how far a value may move from its old one")
    generation: Literal["auto", "vllm", "transformers"] = Field(
        "auto",
        description="grpo, ppo: what writes the answers; auto: vllm on GPUs, where it is installed and has the model, "
        "transformers elsewhere",
    )
    generation_memory: float = execution(
        0.3, gt=0, lt=1, description="grpo, ppo: share of a GPU's memory that vllm takes beside training"
    )
    guard: GuardConfig = Field(default_factory=GuardConfig, description="when training counts as reward collapse")

    batch_sequences: Count = Field(16, ge=1, description="pairs or prompts in a batch, over all workers")
    learning_rate: float = Field(1e-4, gt=0, description="highest learning rate")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of matrices")

    @model_validator(mode="after")
    def _check_method(self) -> AlignConfig:
        for name, methods in OWNERS.items():
            if getattr(self, name) != type(self).model_fields[name].default and self.method not in methods:
                raise ValueError(f"{name} is for {' and '.join(methods)}, not for {self.method}: leave it out")
        if self.method in ON_POLICY and not self.reward:
            raise ValueError(f"{self.method} needs a reward: write align.reward, a module:function or a reward model")
        if self.method == "grpo" and self.answers_per_prompt == 1:
            raise ValueError("grpo compares a prompt's answers with each other: set answers_per_prompt: 2 or more")
        if any(change.z_loss is not None for change in self.changes):
            raise ValueError("changes.z_loss: align minimises no cross-entropy that it would be added to: leave it out")
        if self.parallel.tensor > 1 or self.parallel.pipeline > 1:
            raise ValueError("align trains with parallel.data or parallel.shard: sequences have different lengths")
        if self.method in ON_POLICY and self.parallel.shard > 1:
            raise ValueError(
                f"{self.method} lets every worker answer at its own pace, for which each needs the whole model: use "
                "parallel.data"
            )
        return self

    @property
    def makes_writer(self) -> bool:
        """Whether a model that writes comes of it, to be evaluated and served."""
        return self.method != "reward"

    @property
    def on_policy(self) -> bool:
        """Whether the model learns from its own answers."""
        return self.method in ON_POLICY

    @property
    def strength(self) -> float:
        """``beta``, or the method's usual one."""
        return BETA.get(self.method, 0.0) if self.beta is None else self.beta

    @property
    def group_size(self) -> int:
        """``answers_per_prompt``, or the method's usual number."""
        return self.answers_per_prompt or ANSWERS.get(self.method, 1)

    def total_steps(self, sequences: int, tokens_per_sequence: float) -> int:
        """Optimiser steps, whole rollouts."""
        steps = super().total_steps(sequences, tokens_per_sequence)
        each = self.updates_per_rollout
        if self.steps is None:
            return steps * each  # a pass over the prompts, with so many steps on each batch
        return -(-steps // each) * each


def nothing_to_learn_from() -> UserError:
    """What to raise where a recipe has the section and no data."""
    return UserError(
        "there is nothing to learn from",
        where="align.data",
        next_step="name a file or dataset, for example `data: preferences.jsonl`",
    )


def align_stage(config: AlignConfig) -> Stage:
    """The stage: a reward model is another kind of artifact than a model that writes."""
    return REWARD_STAGE if config.method == "reward" else MODEL_STAGE


def resolve(config: AlignConfig) -> dict[str, Any]:
    """Identity fields: what ``auto`` became, the method's usual settings, and files by their content.

    Raises:
        UserError: a file, folder or template cannot be read.
    """
    from pipelines.finetune.examples.template import load_template

    fields = resolve_training(config) | {"beta": config.strength, "answers_per_prompt": config.group_size}
    foreign = {name for name, methods in OWNERS.items() if config.method not in methods}
    fields |= {name: None for name in identity_fields(config) if name in foreign}
    fields["chat_template"] = load_template(config.chat_template)
    if config.data is not None:
        fields["data"] = rows_identity(config.data)
    if config.on_policy:
        from pipelines.align.generation import intended
        from pipelines.align.sources import reward_identity

        fields["generation"] = intended(config)
        fields["reward"] = reward_identity(str(config.reward))
    return fields
