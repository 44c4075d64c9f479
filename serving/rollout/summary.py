"""Where a rollout stands, as plain JSON values: for the deployment's status, and for whoever watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serving.rollout.machine import Machine
from serving.rollout.needs import Need, open_needs
from serving.rollout.plan import plan_rollout
from serving.rollout.units import SIDES

ALARMS = ("hold", "timeout", "rollback", "false_alarm")


def summarise(
    rollout: str,
    machine: Machine,
    now: float,
    *,
    open_units: int = 0,
    damaged: Sequence[str] = (),
) -> dict[str, Any]:
    """The rollout at a moment.

    Args:
        now: seconds since the epoch.
        open_units: users whose window lasts.
        damaged: files of events that cannot be read.
    """
    config, last = machine.config, machine.decisions[-1] if machine.decisions else None
    units = {side: machine.evidence.sides[side]["units"] for side in SIDES}
    elapsed = machine.elapsed(now)
    busy = elapsed - config.window_seconds
    needs = open_needs(machine, busy)
    return {
        "id": rollout,
        "candidate": config.candidate,
        "baseline": config.baseline,
        "mode": config.mode,
        "status": machine.status,
        "phase": machine.phase,
        "waits_for": machine.waits_for if machine.status == "running" else "",
        "step": machine.step + 1,
        "steps": list(machine.shares),
        "share": machine.target if machine.target is not None else machine.shares[machine.step],
        "started_at": machine.decisions[0].at if machine.decisions else None,
        "elapsed_seconds": elapsed,
        "left_seconds": _left(machine, elapsed, busy, units, needs),
        "units": units,
        "minimum_units": config.minimum_units,
        "open_units": open_units,
        "sides": {side: dict(machine.evidence.sides[side]) for side in SIDES},
        "excluded": dict(sorted(machine.evidence.excluded.items())),
        "ratio_p": machine.evidence.ratio_p,
        "gave_up_p": machine.evidence.gave_up_p,
        "alarm_at": config.alarm_alpha,
        "pass_at": config.alpha,
        "guardrails": [asdict(finding) for finding in machine.evidence.findings()],
        "deciding": machine.deciding,
        "needs": [asdict(need) for need in needs],
        "plan": [asdict(row) for row in plan_rollout(config).guardrails],
        "decision": last.encode() if last else None,
        "alarm": last.why if last and last.what in ALARMS else "",
        "damaged": list(damaged),
    }


def _left(
    machine: Machine, elapsed: float, busy: float, units: dict[Any, int], needs: tuple[Need, ...]
) -> float | None:
    """Seconds until the step can pass, at the rate of units so far; None where that cannot be said."""
    config = machine.config
    if machine.status != "running" or machine.version is None or machine.waits_for or machine.in_doubt:
        return None
    baking = machine.phase == "baking"
    smaller = units["candidate"] if baking else min(units.values())
    if smaller == 0 or busy <= 0 or any(need.seconds is None for need in needs):
        return None
    least = config.bake_seconds if baking else config.minimum_seconds
    waits = [(config.minimum_units - smaller) * busy / smaller, least - elapsed]
    longest = max(*waits, *(need.seconds or 0.0 for need in needs))
    return longest if longest > 0 else None  # what is still to come is not known, or it passes now
