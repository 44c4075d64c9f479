"""What a deployment is wanted to be, in one versioned value that lives in the store: no Ray, no HTTP.

Everything that a person or a rollout decides is here (variants, weights, keys, limits); what merely is (addresses,
load) is not. See :mod:`serving.control.journal` for how versions follow each other.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel
from serving.access.keys import ApiKey
from serving.config import EngineConfig, LimitsConfig, PromptConfig, ShadowConfig
from serving.rollout.config import RolloutConfig
from serving.split.assignment import Allocation

SCHEMA_VERSION = 2
"""Since 2, records say how often it was served and whether the recipe wants keys; those of 1 are read as well."""

RolloutStatus = Literal["running", "paused", "promoted", "rolled_back", "finished"]


class ModelSource(StrictModel):
    """Where weights come from, resolved on each node that needs them: an artifact of the store, or a folder."""

    artifact: str = ""
    folder: str = ""

    @model_validator(mode="after")
    def _one_of_them(self) -> ModelSource:
        if bool(self.artifact) == bool(self.folder):
            raise ValueError("a model is an artifact or a folder")
        return self

    def __str__(self) -> str:
        return self.artifact or self.folder


class LoraCapacity(StrictModel):
    """What an engine can take in adapters beside its base weights; fixed when its server starts."""

    slots: int
    max_rank: int


class EngineState(StrictModel):
    """One Serve application: replicas of one vLLM server over one base model.

    Attributes:
        name: unique in the deployment, never used again for another engine; the base weights answer to it.
        source: the base model.
        config: how each server runs; ``config.replicas`` bounds their number.
        lora: its capacity for adapters; None where it takes none.
    """

    name: str
    source: ModelSource
    config: EngineConfig
    lora: LoraCapacity | None = None


class VariantState(StrictModel):
    """One arm of the split.

    Attributes:
        name: as in weights, metrics and headers.
        engine: the engine that answers for it.
        engine_model: the model name to ask that engine for: the engine's own name, or its adapter's.
        adapter: the LoRA adapter, where the variant is one.
        prompt: what is put around the callers' words.
    """

    name: str
    engine: str
    engine_model: str
    adapter: ModelSource | None = None
    prompt: PromptConfig | None = None


class RolloutState(StrictModel):
    """The rollout that runs, or ran last.

    Attributes:
        id: names its events in the store (``rollouts/<id>/``).
        config: its settings, fixed at the start.
        decision: the id of the evaluation decision that let it begin; empty where none was required.
        status: where it stands; the events say why.
        before: the weights before it began.
    """

    id: str
    config: RolloutConfig
    decision: str = ""
    status: RolloutStatus = "running"
    before: dict[str, float] = Field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether it runs or is paused: it is not over."""
        return self.status in ("running", "paused")


class ServingState(StrictModel):
    """One version of a deployment.

    Attributes:
        version: counts the changes, from 1.
        changed_at: seconds since the epoch.
        changed_by: a user of the machine, ``key <id>``, or ``rollout <id>``.
        reason: why, in a few words.
        model_name: the public model name.
        experiment: salts the assignment of users.
        weights: variant -> weight; every variant has one.
        owners: bucket owners as runs, see :meth:`allocation`.
        keys: every API key that was ever created, hashed.
        require_keys: whether callers need one.
        recipe_sha256: of the serving section that was deployed last; the same section again changes nothing.
        recipe_weights: the weights in that section; the split may have changed since, by hand or by a rollout.
        recipe_require_keys: whether that section, with its address, wants keys; None in records that do not say it.
        served: counts how often it was served; with every time, what failed is tried again.
        stopped: the deployment is to go.
    """

    schema_version: int = SCHEMA_VERSION
    version: int
    changed_at: float
    changed_by: str
    reason: str
    model_name: str
    experiment: str
    engines: dict[str, EngineState]
    variants: dict[str, VariantState]
    weights: dict[str, float]
    owners: dict[str, Any]
    limits: LimitsConfig = LimitsConfig()
    keys: tuple[ApiKey, ...] = ()
    require_keys: bool = False
    fallback: bool = True
    shadow: ShadowConfig | None = None
    rollout: RolloutState | None = None
    recipe_sha256: str = ""
    recipe_weights: dict[str, float] = Field(default_factory=dict)
    recipe_require_keys: bool | None = None
    served: int = 1
    stopped: bool = False

    def allocation(self) -> Allocation:
        """Who owns which bucket."""
        return Allocation.decode(self.owners)
