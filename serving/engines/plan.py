"""Which engines a set of variants needs. Pure: no Ray, no files. See :mod:`serving.control.redeploy` for what follows.

Variants with the same base weights and the same engine settings share an engine: prompt variants ask it for the same
model, adapters are further models on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.errors import UserError
from serving.config import LOOPBACK, EngineConfig, ServingConfig, VariantConfig
from serving.control.state import EngineState, LoraCapacity, ModelSource, ServingState, VariantState
from serving.split.assignment import Allocation

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The maximum ranks that vLLM offers (vllm.config.lora.MaxLoRARanks)."""

DEFAULT_RANK = 16
SPARE_SLOTS = 2


@dataclass(frozen=True)
class VariantSource:
    """Where a variant's weights come from.

    Attributes:
        base: full weights.
        adapter: a LoRA adapter on them, if any.
        rank: the adapter's rank (``r`` in its adapter_config.json); see ``resolve.variant_source``.
    """

    base: ModelSource
    adapter: ModelSource | None = None
    rank: int = DEFAULT_RANK


@dataclass(frozen=True)
class _Wanted:
    """A variant with everything that decides which engine it can use."""

    variant: VariantConfig
    source: VariantSource
    config: EngineConfig

    @property
    def adapter(self) -> str:
        return adapter_name(self.source.adapter) if self.source.adapter else ""

    def fits(self, source: ModelSource, config: EngineConfig) -> bool:
        """Whether an engine over this base with these settings is one that the variant could share.

        ``replicas`` changes while an engine lives (``raymill scale``), so it counts only where the variant names it.
        """
        ignored = set() if "replicas" in self.variant.engine else {"replicas"}
        same = self.config.model_dump(exclude=ignored) == config.model_dump(exclude=ignored)
        return same and source == self.source.base

    def state(self, engine: str) -> VariantState:
        return VariantState(
            name=self.variant.name,
            engine=engine,
            engine_model=self.adapter or engine,
            adapter=self.source.adapter,
            prompt=self.variant.prompt,
        )


def initial_state(
    config: ServingConfig, sources: Mapping[str, VariantSource], *, name: str, by: str, now: float
) -> ServingState:
    """Version 1 of a deployment.

    Args:
        sources: variant -> where its weights come from, for every variant of the configuration.
        name: the deployment's name; also the public model name and the experiment where the recipe gives none.
        by: who deploys.
        now: seconds since the epoch.

    Raises:
        UserError: a variant has no source, or an engine has fewer adapter slots than its variants need.
    """
    missing = [variant.name for variant in config.variants if variant.name not in sources]
    if missing:
        raise UserError(
            f"no model for variant {', '.join(missing)}", where="serving.variants", next_step="give each a model"
        )
    wanted = [_Wanted(each, sources[each.name], config.engine_of(each)) for each in config.variants]
    groups: list[list[_Wanted]] = []
    for each in wanted:
        group = next((group for group in groups if each.fits(group[0].source.base, group[0].config)), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    engines: dict[str, EngineState] = {}
    variants: dict[str, VariantState] = {}
    for group in groups:
        engine = _engine(group[0].variant.name, group)
        engines[engine.name] = engine
        variants |= {each.variant.name: each.state(engine.name) for each in group}
    require = config.auth.require_keys
    return ServingState(
        version=1,
        changed_at=now,
        changed_by=by,
        reason="deployed",
        model_name=config.model_name or name,
        experiment=config.experiment or name,
        engines=engines,
        variants={each.name: variants[each.name] for each in config.variants},
        weights=config.weights(),
        owners=Allocation.first(config.weights()).encode(),
        limits=config.limits,
        require_keys=config.host not in LOOPBACK if require == "auto" else require,
        fallback=config.fallback,
        shadow=config.shadow,
    )


def adapters_of(state: ServingState, engine: str) -> dict[str, ModelSource]:
    """Engine model name -> adapter, of the adapters that an engine should hold."""
    return {
        each.engine_model: each.adapter
        for each in state.variants.values()
        if each.engine == engine and each.adapter is not None
    }


def adapter_name(source: ModelSource) -> str:
    """The name that engines know an adapter by: the same for the same source, and no engine's name (the colon)."""
    if source.artifact:
        return "lora:" + source.artifact.rpartition("/")[2]
    digest = hashlib.sha256(source.folder.encode()).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", source.folder.rstrip("/").rpartition("/")[2])[:48]
    return f"lora:{plain}-{digest}"


def fitting_rank(rank: int) -> int:
    """The smallest maximum rank of vLLM's that an adapter of this rank fits."""
    return next((each for each in LORA_RANKS if each >= rank), rank)


def _engine(name: str, members: Iterable[_Wanted]) -> EngineState:
    first, *rest = members
    ranks = {each.adapter: each.source.rank for each in (first, *rest) if each.adapter}
    slots = first.config.adapter_slots
    if slots is not None and slots < len(ranks):
        raise UserError(
            f"{slots} adapter slots, but the variants need {len(ranks)}",
            where=f"serving.engine.adapter_slots (engine {name})",
            next_step="raise it, or leave it out",
        )
    if slots is None:
        slots = len(ranks) + SPARE_SLOTS if ranks else 0
    capacity = LoraCapacity(slots=slots, max_rank=fitting_rank(max(ranks.values(), default=DEFAULT_RANK)))
    return EngineState(name=name, source=first.source.base, config=first.config, lora=capacity if slots else None)
