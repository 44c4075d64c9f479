"""The recipe: one YAML file, one section a stage. Each section's class belongs to its stage.

A stage takes part when its section is written (even empty) or when a written one needs it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from cluster.config import Document, StrictModel, apply_overrides, execution, load_document, validate
from cluster.session import ClusterConfig
from evals.config import EvalsConfig
from pipelines.align.config import AlignConfig
from pipelines.corpus.config import CorpusConfig
from pipelines.curate.config import CurateConfig
from pipelines.finetune.config import FinetuneConfig
from pipelines.fitting import misfits
from pipelines.objective import Target, parse_target
from pipelines.pretrain import PretrainConfig
from pipelines.tokens.config import TokenizerConfig, TokensConfig
from pipelines.tune.config import TuneConfig
from serving.config import ServingConfig

RECIPES = Path(__file__).parent / "recipes"


class ObjectiveConfig(StrictModel):
    """Recipe section ``objective``: why this model exists, and the measured results that say it is good enough."""

    purpose: str = execution("", description="what the model is for, in a sentence")
    targets: dict[str, str] = execution(
        default_factory=dict,
        description="metric -> condition on the last model's evaluation, for example arc_easy.acc: '>= 0.30'; or on "
        "what a stage made: finetune.validation.accuracy",
    )
    not_worse: dict[str, PositiveFloat] = execution(
        default_factory=dict,
        description="suite, suite.metric or average -> how much worse than the baseline `raymill gate` accepts, for"
        " example arc_easy: 0.02 (two percentage points)",
    )

    @field_validator("targets")
    @classmethod
    def _readable(cls, value: dict[str, str]) -> dict[str, str]:
        for metric, condition in value.items():
            parse_target(metric, condition)
        return value

    def parsed(self) -> list[Target]:
        """The targets, ready to check."""
        return [parse_target(metric, condition) for metric, condition in self.targets.items()]


class Recipe(StrictModel):
    """Everything a run needs; every key has a default."""

    name: str = Field(
        "raymill", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="lower-case name; the served model carries it"
    )
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    store: str = execution("./raymill-store", description="a local folder or s3://bucket/prefix for every artifact")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    corpus: CorpusConfig = Field(default_factory=CorpusConfig)
    curate: CurateConfig = Field(default_factory=CurateConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    tokens: TokensConfig = Field(default_factory=TokensConfig)
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    align: AlignConfig = Field(default_factory=AlignConfig)
    evals: EvalsConfig = Field(default_factory=EvalsConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    tune: TuneConfig | None = Field(
        None, description="`raymill tune`: which keys are varied to find the best recipe; `raymill run` leaves it aside"
    )

    @model_validator(mode="after")
    def _check_fit(self) -> Recipe:
        found = list(misfits(self))
        if found:
            raise ValueError(found[0])
        return self

    @property
    def written(self) -> frozenset[str]:
        """The sections that the file (or an override) names."""
        return frozenset(self.model_fields_set)


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe; a bare name such as ``demo.yaml`` or ``pipelines/recipes/demo.yaml`` also finds a shipped one.

    Raises:
        UserError: the file is missing or holds a mistake; the message names the line.
    """
    return validate_recipe(read_recipe(path, overrides))


def read_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Document:
    """A recipe as written, with the overrides applied; see :func:`load_recipe`."""
    return apply_overrides(load_document(_locate(Path(path))), overrides)


def validate_recipe(document: Document) -> Recipe:
    """Check a recipe's document; a section written without a value (``evals:``) means its defaults."""
    sections = {key for key, info in Recipe.model_fields.items() if info.default_factory is not None}
    data = {key: {} if value is None and key in sections else value for key, value in document.data.items()}
    return validate(Recipe, Document(data, document.name, document.lines, document.overrides))


def _locate(path: Path) -> Path:
    if path.exists():
        return path
    inside = path.parent in (Path(), Path("pipelines/recipes"))
    shipped = [RECIPES / path.name, RECIPES / f"{path.name}.yaml"] if inside else []
    return next((each for each in shipped if each.is_file()), path)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain values, defaults filled in."""
    return recipe.model_dump(mode="json")
