"""Which engines a set of variants needs. Pure: from one wanted state to the next, no Ray, no files.

Variants with the same base weights and the same engine settings share an engine: prompt variants ask it for the same
model, adapters are further models on it. Adding or removing a variant never changes an engine that stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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


def with_variant(
    state: ServingState, variant: VariantConfig, source: VariantSource, engine: EngineConfig | None = None
) -> ServingState:
    """The state with one variant more, on an engine that is there where one fits, else on a new one.

    A new engine is named after the variant and the version that this change will be.

    Args:
        engine: the settings that the variant's own ``engine`` keys replace; by default those of the engine that was
            first deployed over the same base, or else of the first engine.

    Raises:
        UserError: the variant exists, or its weight is no weight.
    """
    if variant.name in state.variants:
        raise UserError(
            f"there is a variant {variant.name} already",
            where=f"variants: {', '.join(state.variants)}",
            next_step="choose another name, or remove that variant first",
        )
    settings = engine or _settings_of(state, source.base)
    wanted = _Wanted(variant, source, EngineConfig.model_validate({**settings.model_dump(), **variant.engine}))
    home = next((each for each in state.engines.values() if _has_room(state, each, wanted)), None)
    if home is None:
        home = _engine(_free_name(f"{variant.name}-v{state.version + 1}", state.engines), [wanted])
    weights = {**state.weights, variant.name: variant.weight}
    return state.model_copy(
        update={
            "engines": {**state.engines, home.name: home},
            "variants": {**state.variants, variant.name: wanted.state(home.name)},
            "weights": weights,
            "owners": _owners(state, weights),
        }
    )


def without_variant(state: ServingState, name: str) -> ServingState:
    """The state without one variant, and without its engine where no other variant needs that.

    Raises:
        UserError: there is no such variant, it is the shadow's, or the rest would have no weight.
    """
    if name not in state.variants:
        raise UserError(
            f"no variant is called {name}", where="variants", next_step=f"they are {', '.join(state.variants)}"
        )
    if state.shadow and state.shadow.variant == name:
        raise UserError(f"copies of requests go to {name}", where="shadow", next_step="switch the shadow off first")
    variants = {key: each for key, each in state.variants.items() if key != name}
    weights = {key: weight for key, weight in state.weights.items() if key != name}
    needed = {each.engine for each in variants.values()}
    return state.model_copy(
        update={
            "engines": {key: each for key, each in state.engines.items() if key in needed},
            "variants": variants,
            "weights": weights,
            "owners": _owners(state, weights),
        }
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


def _has_room(state: ServingState, engine: EngineState, wanted: _Wanted) -> bool:
    if not wanted.fits(engine.source, engine.config):
        return False
    held = set(adapters_of(state, engine.name))
    if not wanted.adapter or wanted.adapter in held:
        return True
    return engine.lora is not None and len(held) < engine.lora.slots and wanted.source.rank <= engine.lora.max_rank


def _settings_of(state: ServingState, base: ModelSource) -> EngineConfig:
    same = [each.config for each in state.engines.values() if each.source == base]
    others = [each.config for each in state.engines.values()]
    return (same or others or [EngineConfig()])[0]


def _owners(state: ServingState, weights: Mapping[str, float]) -> dict[str, Any]:
    """The buckets' owners under these weights; as they are where none changes hands."""
    before = state.allocation()
    after = before.reweighted(weights)
    return state.owners if after.owners == before.owners else after.encode()


def _free_name(name: str, taken: Iterable[str]) -> str:
    count, candidate = 1, name
    while candidate in taken:
        count += 1
        candidate = f"{name}-{count}"
    return candidate
