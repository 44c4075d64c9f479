"""Recipe section ``evals``: which suites a model is measured on, on which questions, and how."""

from __future__ import annotations

import difflib

from pydantic import Field, field_validator

from cluster.config import StrictModel, execution
from cluster.stage import Stage

SUITES = ("arc_easy", "arc_challenge", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")
"""The lm-eval tasks (mmlu: the group of 57 subjects) that can be named, in the order they are reported."""


class EvalsConfig(StrictModel):
    """What to measure. ``benchmarks`` decides where the questions come from and is never guessed."""

    suites: tuple[str, ...] = Field(
        SUITES, min_length=1, description=f"lm-eval tasks to run, out of: {', '.join(SUITES)}"
    )
    benchmarks: str | None = Field(
        None,
        description="sample (the shipped questions, not the official ones), hub (download them) or the path of a folder"
        " in the Hub's layout; if absent, RAYMILL_BENCHMARKS says",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="worked examples before each question; by default what each task says (0)"
    )
    limit: int | None = Field(
        None, ge=1, description="only the first so many questions of each task: for trying out, not for deciding"
    )
    batch_size: int = Field(
        8, ge=1, description="sequences a forward pass; it moves scores by rounding, so it is part of the result"
    )
    heldout: bool = Field(True, description="measure perplexity on the corpus's validation split as well")
    heldout_tokens: int = Field(
        50_000, ge=1, description="whole validation documents are taken until they have so many tokens"
    )
    seed: int = Field(1234, ge=0, description="seed of the choice of worked examples and of held-out documents")
    workers: int = execution(2, ge=1, description="model replicas that answer in parallel, one CPU thread each")

    @field_validator("suites")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(value):
            if name not in SUITES:
                near = difflib.get_close_matches(name, SUITES, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SUITES)}"
                raise ValueError(f"unknown task {name!r}; {hint}")
            if name in value[:index]:
                raise ValueError(f"task {name!r} is given twice")
        return value


STAGE = Stage(
    name="evals", kind="EvalReport", version=1, entry="evals.stage:run", resolve="evals.benchmarks:resolve_identity"
)


class BenchmarkTextConfig(StrictModel):
    """Which questions are written out for curation: those that ``evals`` asks, all of them whatever its ``limit``."""

    suites: tuple[str, ...] = Field(min_length=1, description="as in EvalsConfig; their order makes no difference")
    benchmarks: str | None = Field(None, description="as in EvalsConfig")

    @field_validator("suites")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(value))

    @classmethod
    def of(cls, config: EvalsConfig) -> BenchmarkTextConfig:
        """What an evaluation's configuration says of its questions."""
        return cls(suites=config.suites, benchmarks=config.benchmarks)


BENCHMARK_TEXT_STAGE = Stage(
    name="benchmark-text",
    kind="BenchmarkText",
    version=1,
    entry="evals.benchmark_text:run",
    resolve="evals.benchmarks:resolve_text_identity",
)
