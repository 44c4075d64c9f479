"""Recipe section ``evals``: which suites a model is measured on, on which questions, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cluster.config import StrictModel, execution
from cluster.errors import UserError
from cluster.stage import Stage
from evals.presets import PRESETS
from evals.set_config import SetConfig
from evals.usage import PricesConfig

SUITES = ("arc_easy", "arc_challenge", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")
"""The lm-eval tasks (mmlu: the group of 57 subjects) that are run by default, in the order they are reported."""

Count = Annotated[int, Field(ge=0)]


class EvalsConfig(StrictModel):
    """What to measure. ``benchmarks`` decides where the questions come from and is never guessed."""

    preset: str | None = execution(
        None,
        description="leaderboard (ARC 25-shot, MMLU 5-shot, TruthfulQA mc2, as the Open LLM Leaderboard asked them) or"
        " bias (CrowS-Pairs, Winogender, BBQ); it stands for suites and num_fewshot, which are then left out",
    )
    tasks_folder: str | None = execution(
        None, description="a folder with task files of your own (lm-eval's YAML), which suites may then name"
    )
    suites: tuple[str, ...] = Field(
        SUITES, min_length=1, description="lm-eval tasks, groups or tags to run, or those of tasks_folder, by name"
    )
    benchmarks: str | None = Field(
        None,
        description="sample (the shipped questions, not the official ones), hub (download them), or the path or s3://"
        " address of a folder in the Hub's layout; if absent, RAYMILL_BENCHMARKS says",
    )
    num_fewshot: Count | dict[str, Count] | None = Field(
        None,
        description="worked examples before each question, for all suites or by suite; by default what each task says"
        " (0)",
    )
    limit: int | None = Field(
        None, ge=1, description="only the first so many questions of each task: for trying out, not for deciding"
    )
    sample: int | None = Field(
        None,
        ge=2,
        description="a random sample of so many questions of each suite, drawn with seed; of a suite of several tasks"
        " (MMLU) from each in proportion to its size",
    )
    backend: Literal["transformers", "vllm"] = Field(
        "transformers", description="what runs the model; a served URL is neither"
    )
    batch_size: int = Field(
        8, ge=1, description="sequences a forward pass; it moves scores by rounding, so it is part of the result"
    )
    share_prefixes: bool = Field(
        False,
        description="transformers only: compute what prompts begin with in common (worked examples) once. Several times"
        " faster for MMLU with examples; log-probabilities are then lm-eval's within 1e-4, and not to the bit",
    )
    sets: dict[str, SetConfig] = Field(
        default_factory=dict, description="held-out sets of your own by name: a path and a kind each"
    )
    heldout: bool = Field(True, description="measure perplexity on the corpus's validation split as well")
    heldout_tokens: int = Field(
        50_000, ge=1, description="whole validation documents are taken until they have so many tokens"
    )
    heldout_train: bool = Field(
        True, description="measure as much of the training text too: the difference shows overfitting"
    )
    seed: int = Field(1234, ge=0, description="seed of the choice of worked examples and of held-out documents")
    prices: PricesConfig = execution(
        default_factory=PricesConfig, description="what workers and tokens cost, for the report's account"
    )
    workers: int = execution(2, ge=1, description="model replicas that answer in parallel, one CPU thread each")

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, data: Any) -> Any:
        name = data.get("preset") if isinstance(data, Mapping) else None
        if name is None:
            return data
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
        preset = PRESETS[name]
        meant = {"suites": preset.suites, "num_fewshot": preset.num_fewshot}
        for key, value in meant.items():
            given = data.get(key)
            if given is not None and (tuple(given) if key == "suites" else given) != value:
                raise ValueError(f"preset {name} says {key} itself; leave one of them out")
        return {**data, **meant}

    @field_validator("suites")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return known_suites(value, info.data.get("tasks_folder"))

    @field_validator("num_fewshot")
    @classmethod
    def _of_suites(cls, value: Any, info: ValidationInfo) -> Any:
        strangers = sorted(set(value) - set(info.data.get("suites", ()))) if isinstance(value, dict) else []
        if strangers and "suites" in info.data:
            raise ValueError(f"{strangers[0]} is not among suites")
        return value

    @field_validator("sets")
    @classmethod
    def _named(cls, value: dict[str, SetConfig], info: ValidationInfo) -> dict[str, SetConfig]:
        taken = {*SUITES, *info.data.get("suites", ()), "heldout", "average"}
        for name in value:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in taken:
                raise ValueError(
                    f"a set cannot be called {name!r}: lower-case letters, digits, - and _, and no suite's name"
                )
        return value

    @model_validator(mode="after")
    def _one_choice(self) -> EvalsConfig:
        if self.limit is not None and self.sample is not None:
            raise ValueError("limit and sample exclude each other: the first questions, or random ones")
        if self.share_prefixes and self.backend == "vllm":
            raise ValueError("share_prefixes is for backend transformers: vLLM does it by itself")
        return self


def known_suites(names: tuple[str, ...], folder: str | None = None) -> tuple[str, ...]:
    """The names, each known to lm-eval or to a team's folder, and none twice; a tag stands for its tasks.

    Raises:
        ValueError: saying which is not, and what was perhaps meant.
    """
    from evals.catalogue import expand_tag, is_familiar

    found: list[str] = []
    for name in names:
        try:
            expanded = [name] if is_familiar(name) else expand_tag(name, folder)
        except UserError as error:
            raise ValueError(error.what) from None
        for each in expanded:
            if each in found:
                raise ValueError(f"task {each!r} is given twice")
            found.append(each)
    return tuple(found)


STAGE = Stage(
    name="evals", kind="EvalReport", version=1, entry="evals.stage:run", resolve="evals.benchmarks:resolve_identity"
)


class BenchmarkTextConfig(StrictModel):
    """Which questions are written out for curation: those that ``evals`` asks, all of them whatever its ``limit``."""

    suites: tuple[str, ...] = Field(min_length=1, description="as in EvalsConfig; their order makes no difference")
    benchmarks: str | None = Field(None, description="as in EvalsConfig")
    tasks_folder: str | None = execution(None, description="as in EvalsConfig")

    @field_validator("suites")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(value))

    @classmethod
    def of(cls, config: EvalsConfig) -> BenchmarkTextConfig:
        """What an evaluation's configuration says of its questions."""
        return cls(suites=config.suites, benchmarks=config.benchmarks, tasks_folder=config.tasks_folder)


BENCHMARK_TEXT_STAGE = Stage(
    name="benchmark-text",
    kind="BenchmarkText",
    version=1,
    entry="evals.benchmark_text:run",
    resolve="evals.benchmarks:resolve_text_identity",
)
