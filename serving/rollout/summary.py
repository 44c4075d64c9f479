"""Where a rollout stands, as plain JSON values: for the deployment's status, and for whoever watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serving.rollout.machine import Machine
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
        "elapsed_seconds": machine.elapsed(now),
        "left_seconds": _left(machine, now, units),
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
        "plan": [asdict(row) for row in plan_rollout(config).guardrails],
        "decision": last.encode() if last else None,
        "alarm": last.why if last and last.what in ALARMS else "",
        "damaged": list(damaged),
    }


def _left(machine: Machine, now: float, units: dict[Any, int]) -> float | None:
    """Seconds until the step can pass, at the rate of units so far; None where that cannot be said."""
    config, elapsed = machine.config, machine.elapsed(now)
    if machine.status != "running" or machine.version is None or machine.waits_for:
        return None
    baking = machine.phase == "baking"
    smaller, total = units["candidate"] if baking else min(units.values()), sum(units.values())
    busy = elapsed - config.window_seconds
    if smaller == 0 or busy <= 0:
        return None
    least = config.bake_seconds if baking else config.minimum_seconds
    waits = [(config.minimum_units - smaller) * busy / smaller, least - elapsed, 0.0]
    if baking:
        return max(waits)
    deciding = config.require == "every_step" or machine.step == len(config.compared_steps) - 1
    if config.mode == "ab" and deciding:
        share, here = config.compared_steps[-1] / 100, machine.shares[machine.step] / 100
        worth = share * (1 - share) / (here * (1 - here))
        unmet = {finding.metric for finding in machine.evidence.findings() if finding.p_pass > config.alpha}
        for row in plan_rollout(config).guardrails:
            if row.metric in unmet:
                if row.units is None:
                    return None
                waits.append((row.units * worth - total) * busy / total)
    return max(waits)
