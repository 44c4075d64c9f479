"""`raymill scale`, `limits` and `shadow`: how a deployment works, changed while it does."""

from __future__ import annotations

import json
from argparse import Namespace

from cluster.config import Document, apply_overrides, validate
from cluster.errors import UserError
from cluster.progress import table
from pipelines.commands.deployment import target_of
from serving.config import LimitsConfig, ShadowConfig
from serving.control import operations, status
from serving.control.changes import sharing
from serving.control.names import who


def scale(arguments: Namespace) -> int:
    """Another number of vLLM servers for a variant, or bounds between which it follows the requests."""
    target = target_of(arguments)
    variant, replicas = arguments.variant, arguments.replicas
    reason = arguments.reason or f"{variant}: {replicas} replicas"
    state, line = target.change(lambda: operations.scale(target.journal, variant, replicas, by=who(), reason=reason))
    others = sharing(state, variant)
    engine = state.variants[variant].engine
    shared = f" (its servers also answer for {', '.join(others)})" if others else ""
    print(f"{variant} has {state.engines[engine].config.replicas} replicas{shared}: {line}")
    now = status.read(target.store, target.name) if target.endpoint else None
    for each in now.engines if now else ():
        if each.name == engine:
            print(f"engine {engine}: {each.standing}")
    return 0


def limits(arguments: Namespace) -> int:
    """Show what one request may ask for, or change it; the keys are those of ``serving.limits``."""
    target = target_of(arguments)
    current = target.journal.current().limits
    if not arguments.overrides:
        if arguments.json:
            print(json.dumps(current.model_dump(), indent=1))
        else:
            print(table([{"limit": name, "value": value} for name, value in current.model_dump().items()]))
        return 0

    def edit(newest: LimitsConfig) -> LimitsConfig:
        return validate(LimitsConfig, apply_overrides(Document(newest.model_dump(), "limits"), arguments.overrides))

    reason = arguments.reason or f"limits {', '.join(arguments.overrides)}"
    _, line = target.change(lambda: operations.set_limits(target.journal, edit, by=who(), reason=reason))
    print(f"{', '.join(arguments.overrides)}: {line}")
    return 0


def shadow(arguments: Namespace) -> int:
    """Copy a share of the requests to a variant whose answers are measured and thrown away; or stop, or show it."""
    target = target_of(arguments)
    if arguments.off and arguments.variant is not None:
        raise UserError(
            "name a variant, or --off",
            where="raymill shadow",
            next_step="for example `raymill shadow tuned --share 0.1`",
        )
    if not arguments.off and arguments.variant is None:
        now = target.journal.current().shadow
        print(f"copies of {now.share:.0%} of the requests go to {now.variant}" if now else "no copies")
        return 0
    wanted = None
    if arguments.variant is not None:
        if not 0 < arguments.share <= 1:
            raise UserError(
                f"a share is above 0 and at most 1 (got {arguments.share:g})", where="--share", next_step="0.1 is 10 %"
            )
        wanted = ShadowConfig(variant=arguments.variant, share=arguments.share)
    what = f"copies of {arguments.share:.0%} of the requests go to {arguments.variant}" if wanted else "no copies"
    reason = arguments.reason or what
    _, line = target.change(lambda: operations.set_shadow(target.journal, wanted, by=who(), reason=reason))
    print(f"{what}: {line}")
    return 0
