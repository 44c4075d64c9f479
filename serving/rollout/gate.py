"""The gate before a rollout: an evaluation must have said that this candidate may replace this baseline.

It is a ``Decision`` artifact, see :mod:`cluster.decision`.
"""

from __future__ import annotations

from typing import Any

from cluster.artifact import Artifact, find_artifact, list_artifacts
from cluster.decision import KIND
from cluster.errors import UserError
from cluster.store import Store
from serving.control.state import ModelSource, ServingState
from serving.rollout.config import RolloutConfig

_HOW = 'publish a decision of this pair (`raymill gate`; docs/rollout.md, "The gate"); or go on without: `gate: none`'


class GateClosed(UserError):
    """No evaluation allows the rollout yet; a later one may."""


def model_of(state: ServingState, variant: str) -> ModelSource:
    """The weights that a variant adds to the comparison: its adapter, or else its engine's base model.

    Raises:
        UserError: there is no such variant.
    """
    found = state.variants.get(variant)
    if found is None:
        raise UserError(
            f"no variant is called {variant!r}",
            where="rollout",
            next_step=f"variants of this deployment: {', '.join(state.variants)}",
        )
    return found.adapter or state.engines[found.engine].source


def required_decision(store: Store, state: ServingState, config: RolloutConfig) -> str:
    """The id of the decision that lets this rollout begin; empty where none is asked for.

    An A/A rollout needs none: nothing new can reach a user.

    Raises:
        GateClosed: there is no decision of the two models, or it does not say pass.
        UserError: the rollout could never begin.
    """
    candidate, baseline = model_of(state, config.candidate), model_of(state, config.baseline)
    if config.mode == "aa":
        if candidate != baseline:
            raise UserError(
                "an A/A rollout compares a model with itself, but these are two",
                where=f"{config.candidate} is {candidate}, {config.baseline} is {baseline}",
                next_step="add a variant with the baseline's model, or leave `mode: aa` out",
            )
        return ""
    if config.gate == "none":
        return ""
    if candidate == baseline:
        raise UserError(
            f"both variants have the same model, {candidate}: no evaluation tells them apart",
            where="serving.rollout.gate",
            next_step="set `gate: none` to compare prompts or settings with live traffic only, or `mode: aa`",
        )
    return decision_for(store, str(candidate), str(baseline), config.gate)


def decision_for(store: Store, candidate: str, baseline: str, gate: str) -> str:
    """The id of the evaluation decision that a gate asks for; empty for ``none``.

    Args:
        candidate: the model that is to be rolled out: an artifact's id, or a folder's path.
        baseline: the one that it replaces.
        gate: ``newest`` (of this pair), an artifact id, or ``none``.

    Raises:
        GateClosed: there is none, it is about other models, or it does not say pass.
        UserError: what is named is no decision.
    """
    if gate == "none":
        return ""
    decision = _newest(store, candidate, baseline) if gate == "newest" else _named(store, gate)
    _require(decision, candidate, baseline)
    return decision.id


def _newest(store: Store, candidate: str, baseline: str) -> Artifact:
    everything = list_artifacts(store, KIND)
    fitting = [each for each in everything if _pair(each) == (candidate, baseline)]
    if fitting:
        return fitting[-1]
    others = "; ".join(f"{each.id} is of {_pair(each)[0]} against {_pair(each)[1]}" for each in everything[-3:])
    raise GateClosed(
        f"no evaluation decision lets {candidate} replace {baseline}" + (f" ({others})" if others else ""),
        where=store.url,
        next_step=_HOW,
    )


def _named(store: Store, gate: str) -> Artifact:
    artifact = find_artifact(store, gate)
    if artifact.kind != KIND:
        raise UserError(
            f"{artifact.id} is a {artifact.kind}, not a {KIND}",
            where="serving.rollout.gate",
            next_step="name an evaluation decision, or write newest",
        )
    return artifact


def _require(decision: Artifact, candidate: str, baseline: str) -> None:
    if _pair(decision) != (candidate, baseline):
        found = _pair(decision)
        raise GateClosed(
            f"the decision is about other models: {found[0] or '?'} against {found[1] or '?'}, "
            f"not {candidate} against {baseline}",
            where=decision.id,
            next_step="evaluate the two models that are to be compared, or write `gate: newest`",
        )
    verdict = decision.details.get("verdict")
    if verdict == "pass":
        return
    checks = decision.details.get("checks")
    failed = [_name(check) for check in checks if not _passed(check)] if isinstance(checks, list) else []
    why = {"fail": "the evaluation says that the candidate must not replace the baseline"}.get(
        str(verdict), "the evaluation found no evidence either way"
    )
    raise GateClosed(
        why + (f": {', '.join(failed)}" if failed else ""),
        where=decision.id,
        next_step="improve the candidate or evaluate on more questions; `gate: none` goes on without",
    )


def _pair(decision: Artifact) -> tuple[str, str]:
    return str(decision.details.get("candidate", "")), str(decision.details.get("baseline", ""))


def _passed(check: Any) -> bool:
    return isinstance(check, dict) and (check.get("verdict") == "pass" or check.get("passed") is True)


def _name(check: Any) -> str:
    if not isinstance(check, dict):
        return str(check)
    return str(check.get("name") or check.get("metric") or check.get("task") or check)
