"""Recipe section ``finetune``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage
from pipelines.finetune.examples.config import (
    HubData,
    JsonData,
    JsonlData,
    ParquetData,
    Rows,
    Subset,
    from_place,
    rows_identity,
)
from pipelines.finetune.kinds import refuse_for_task
from pipelines.finetune.quantised import refuse_quantised
from pipelines.train.config import Count, TrainConfig, resolve_training
from pipelines.train.refusals import refuse_adapters

if TYPE_CHECKING:
    from pipelines.train.shaping import Shaping


def _stages(folder: str, version: int, *kinds: str) -> tuple[Stage, ...]:
    run, here = f"pipelines.finetune.{folder}stage:run", "pipelines.finetune"
    resolve, check = f"{here}.config:resolve", f"{here}.early:check"
    return tuple(Stage("finetune", kind, version, run, resolve=resolve, check=check) for kind in kinds)


MODEL_STAGE, ADAPTER_STAGE = _stages("", 4, "Model", "Adapter")
"""The same work where full weights come of it, and where an addition does."""

CLASSIFIER_STAGE, CLASSIFIER_ADAPTER_STAGE = _stages("classification.", 1, "Classifier", "ClassifierAdapter")
"""Where the model is to tell classes of texts apart: kinds of their own, which nothing takes for what writes text."""

SEQ2SEQ_STAGE, SEQ2SEQ_ADAPTER_STAGE = _stages("seq2seq.", 1, "Model", "Seq2SeqAdapter")
"""Where the model turns sources into targets. Whole ones are Models, as a t5 that is pretrained is."""

Method = Literal["full", "lora", "prompt", "prefix", "p-tuning", "ia3", "adapter"]
LEARNED_PROMPTS = ("prompt", "prefix", "p-tuning")
"""Methods that put learned vectors in front of the tokens."""

MERGEABLE = ("lora", "ia3")
"""Methods whose result is a change of the base's own matrices."""

BELONGS: dict[str, tuple[str, ...]] = {
    "rank": ("lora",),
    "alpha": ("lora",),
    "rslora": ("lora",),
    "dora": ("lora",),
    "dropout": ("lora",),
    "base_bits": ("lora",),
    "target_modules": ("lora", "ia3"),
    "virtual_tokens": LEARNED_PROMPTS,
    "prompt_text": ("prompt",),
    "encoder_hidden": ("prefix", "p-tuning"),
    "bottleneck": ("adapter",),
    "merge": MERGEABLE,
    "unfreeze_every_steps": ("full",),
    "layer_decay": ("full",),
    "l2_sp": ("full",),
}
"""Key -> the methods that it means something to."""

RATES: dict[str, float] = {"full": 1e-4, "lora": 2e-3, "ia3": 1e-2, "adapter": 1e-3}
PROMPT_RATE = 3e-2
SCORED = 64
"""Held-out answers that are compared with what was expected where the task is to turn sources into targets."""


class DocsPairs(StrictModel):
    """Questions about functions and classes, answered by the first paragraph of their docstrings."""

    kind: Literal["docs-pairs"] = "docs-pairs"
    max_pairs: Count | None = Field(
        default=None, ge=2, description="pairs to keep, chosen by a stable hash; by default all"
    )


Data = Annotated[
    DocsPairs | JsonlData | JsonData | ParquetData | HubData, Field(discriminator="kind"), BeforeValidator(from_place)
]


class FinetuneConfig(TrainConfig):
    """Recipe section ``finetune``: adapt a model to examples, wholly or by a small addition, loss on the answers."""

    model: str | None = Field(
        None,
        min_length=1,
        json_schema_extra={"identity": False},  # what it is enters as the input `model`
        description="a Hugging Face folder, hf://organisation/name or a Model's artifact id; by default what pretrain "
        "makes",
    )
    task: Literal["generation", "classification", "seq2seq"] = Field(
        "generation",
        description="generation: the model learns to write the answers; classification: to name a text's label, with "
        "a head on an encoder (bert) or a decoder (llama, gpt2); seq2seq: an encoder-decoder (t5, bart) learns to turn "
        "prompts into completions, such as summaries or translations",
    )
    labels: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        description="classification: the labels that there are, in the order of their numbers; by default those of "
        "the rows, sorted",
    )
    class_weights: Literal["balanced"] | dict[str, float] | None = Field(
        None,
        description="classification: how much each label counts in the loss: balanced (the rarer, the more), or label "
        "-> weight, 1 where none is named",
    )
    method: Method = Field(
        "lora",
        description="full (all weights), lora, ia3, adapter (bottlenecks after each layer), or learned vectors in "
        "front of the text: prompt, prefix, p-tuning",
    )
    data: Data = Field(
        DocsPairs(),
        description="docs-pairs: from the curated documents; or your own examples: jsonl, json, parquet (path), hf; a "
        "bare path or hf:// name says its kind",
    )
    subset: Subset = Field(
        None, description="a cheap trial: use so many examples, or this share of them below 1, by a stable hash"
    )
    validation_fraction: float = Field(0.05, gt=0, lt=0.5, description="share of the examples held out, by prompt")
    sequence_length: int | None = Field(
        None, ge=16, description="most tokens of an example with its answers; by default the model's context"
    )
    too_long: Literal["refuse", "drop", "left", "right"] | None = Field(
        None,
        description="examples over sequence_length: refuse names the row, drop leaves them out, left and right shorten "
        "what is asked from its beginning or end. By default refuse; drop for docs-pairs",
    )
    loss_on: Literal["answers", "last_answer", "everything"] = Field(
        "answers", description="which tokens are learned: all the assistant's turns, its last, or the prompts too"
    )
    packing: bool = Field(
        False, description="several examples share a row of sequence_length; they do not see each other"
    )
    chat_template: str | None = Field(
        None,
        description="Jinja text or a file with it, in place of the tokenizer's; `plain` puts prompt and answer one "
        "after the other, for models without a chat",
    )
    forgetting: Rows | None = Field(
        None,
        description="examples of what the model could do before, up to 512 are read: their loss before and after "
        "is in the report",
    )

    rank: int = Field(8, ge=1, le=512, description="lora: rank of the adapters")
    alpha: float = Field(16.0, gt=0, description="lora: the adapters' output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="lora: share of an adapter's inputs dropped while training")
    rslora: bool = Field(False, description="lora: scale by alpha / sqrt(rank) instead (arXiv:2312.03732)")
    dora: bool = Field(False, description="lora: learn magnitude and direction apart (DoRA, arXiv:2402.09353)")
    target_modules: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="lora, ia3: names of the matrices that are adapted; by default all of the layers'",
    )
    virtual_tokens: int = Field(16, ge=1, le=4096, description="prompt, prefix, p-tuning: learned positions in front")
    prompt_text: str | None = Field(None, min_length=1, description="prompt: begin from this text's embeddings")
    encoder_hidden: int | None = Field(
        None, ge=1, description="p-tuning: width of the network that makes the prompt; prefix: use one, of this width"
    )
    bottleneck: int = Field(16, ge=1, description="adapter: width of the bottleneck after each layer")
    merge: bool = Field(False, description="lora, ia3: publish the base with the adapter merged into it, a whole model")
    unfreeze_every_steps: Count | None = Field(
        None, ge=1, description="full: train the last layer first, and one layer more after every so many steps"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="full: each layer's learning rate is this much of the one's above it"
    )
    l2_sp: float = Field(
        0.0, ge=0, description="full: pull towards the starting weights (L2-SP), such as 0.01; forgets less"
    )
    base_bits: Literal[4] | None = Field(
        None,
        description="lora: keep the frozen base in 4 bits (QLoRA); needs gpus_per_worker: 1 and bitsandbytes "
        "(raymill[qlora]) on the workers",
    )

    batch_sequences: Count = Field(32, ge=1, description="examples (rows, if packed) in a batch, over all workers")
    learning_rate: float = Field(
        2e-3, gt=0, description="highest learning rate; by default by method: full 1e-4, lora 2e-3, adapter 1e-3, …"
    )
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of the trained matrices")
    answers_scored: int | None = Field(
        None,
        ge=0,
        description="held-out prompts that are answered greedily, before and after, and compared with what was "
        "expected: ROUGE and BLEU. By default 64 for seq2seq, none for generation",
    )
    examples_shown: int = execution(4, ge=0, description="held-out questions that the report shows answers to")

    @model_validator(mode="before")
    @classmethod
    def _rate_by_method(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("learning_rate") is None and isinstance(values.get("method"), str):
            return values | {"learning_rate": RATES.get(values["method"], PROMPT_RATE)}
        return values

    @model_validator(mode="after")
    def _check_method(self) -> FinetuneConfig:
        defaults = {name: info.get_default() for name, info in type(self).model_fields.items()}
        for name, methods in BELONGS.items():
            if getattr(self, name) != defaults[name] and self.method not in methods:
                raise ValueError(f"{name} is for method {' or '.join(methods)}, not for {self.method}: leave it out")
        refuse_quantised(self)
        if self.packing and self.method in LEARNED_PROMPTS:
            raise ValueError(
                f"packing puts several examples in a row, and {self.method} puts its learned vectors in front of a "
                "row, not of each example: set packing: false"
            )
        if self.method == "prefix" and self.recompute != "none":
            raise ValueError("recompute drops the cache that prefix keeps its vectors in: set recompute: none")
        if self.method != "full" and self.optimizer == "muon":
            raise ValueError("muon orthogonalises whole matrices; what is added to a model is small: use adamw")
        refuse_adapters(self)
        refuse_for_task(self, defaults)
        return self

    @property
    def length_policy(self) -> Literal["refuse", "drop", "left", "right"]:
        """What happens to examples that are too long."""
        return self.too_long or ("drop" if isinstance(self.data, DocsPairs) else "refuse")

    @property
    def scored(self) -> int:
        """Held-out answers that are compared with what was expected."""
        default = SCORED if self.task == "seq2seq" else 0
        return default if self.answers_scored is None else self.answers_scored

    @property
    def makes_model(self) -> bool:
        """Whether full weights come of it, not an adapter."""
        return self.method == "full" or self.merge

    @property
    def title(self) -> str:
        """The method for a person."""
        kind = "DoRA" if self.dora else "rsLoRA" if self.rslora else "LoRA"
        four = " on a base in 4 bits" if self.base_bits else ""
        return {
            "lora": f"{kind} of rank {self.rank}{four}",
            "full": "all weights",
            "adapter": f"bottleneck adapters of width {self.bottleneck}",
            "ia3": "IA3",
        }.get(self.method) or f"{self.method} tuning with {self.virtual_tokens} virtual tokens"

    def shaping(self, model: Any) -> Shaping | None:
        """Layer-wise rates, unfreezing and L2-SP, where the recipe asks for any."""
        if self.method != "full" or (self.layer_decay == 1.0 and self.unfreeze_every_steps is None and not self.l2_sp):
            return None
        from pipelines.train.shaping import Shaping, depths_of

        return Shaping(depths_of(model), self.layer_decay, self.unfreeze_every_steps, self.l2_sp)


def stage_of(config: FinetuneConfig) -> Stage:
    """The stage that makes what task and method give: an adapter, or a model."""
    if config.task == "classification":
        return CLASSIFIER_STAGE if config.makes_model else CLASSIFIER_ADAPTER_STAGE
    if config.task == "seq2seq":
        return SEQ2SEQ_STAGE if config.makes_model else SEQ2SEQ_ADAPTER_STAGE
    return MODEL_STAGE if config.makes_model else ADAPTER_STAGE


def resolve(config: FinetuneConfig) -> dict[str, Any]:
    """Identity fields that ``auto`` became, and the data's content instead of its place.

    Raises:
        UserError: the data or the template cannot be read.
        InfraError: S3 or the Hub does not answer.
    """
    from pipelines.finetune.examples.template import load_template

    fields = resolve_training(config)
    fields["chat_template"] = load_template(config.chat_template)
    fields["too_long"] = config.length_policy
    fields["answers_scored"] = config.scored
    if not isinstance(config.data, DocsPairs):
        fields["data"] = rows_identity(config.data)
    if config.forgetting is not None:
        fields["forgetting"] = rows_identity(config.forgetting)
    return fields
