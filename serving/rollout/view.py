"""A rollout as text on a terminal: where it stands, and its history."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.progress import duration, table
from serving.rollout.decision import Decision
from serving.rollout.plan import RolloutPlan, effect

WHY_WIDTH = 90
_WORDS = {
    "moving": "waiting for the step's weights to be in force",
    "waiting": "watching who is on the candidate",
    "comparing": "comparing",
    "baking": "baking: the baseline is kept warm",
    "over": "over",
}


def status_text(summary: Mapping[str, Any]) -> str:
    """Everything about a rollout at a moment, from its summary (see :mod:`serving.rollout.summary`)."""
    steps = " → ".join(f"[{s:g}]" if i + 1 == summary["step"] else f"{s:g}" for i, s in enumerate(summary["steps"]))
    state = summary["status"].replace("_", " ")
    if summary["status"] == "running":
        state = _WORDS[summary["phase"]]
        if summary.get("waits_for"):
            waiting = f"waiting until an engine of {summary['waits_for']} answers"
            state = waiting if summary["phase"] == "moving" else f"{state}, {waiting}"
    lines = [
        f"rollout {summary['id']}: {summary['candidate']} against {summary['baseline']}, {state}",
        f"step {summary['step']} of {len(summary['steps'])} ({steps} %), {summary['share']:g} % on the candidate",
        f"{duration(summary['elapsed_seconds'])} in this step, {_left(summary)}",
        f"units: {_units(summary)} (at least {summary['minimum_units']:,} a side); {summary['open_units']:,} open; "
        f"sample ratio p = {summary['ratio_p']:.3g}; given up p = {summary.get('gave_up_p', 1.0):.3g}",
        "",
    ]
    if summary["guardrails"]:
        lines += [table([_row(finding, summary) for finding in summary["guardrails"]]), ""]
    left_out = ", ".join(f"{name} {n:,}" for name, n in summary["excluded"].items())
    marks = [
        f"{side} {counts['errors']:,} errors, {counts['retried']:,} retried, {counts['fallback']:,} fallen back, "
        f"{counts.get('gave_up', 0):,} given up"
        for side, counts in summary["sides"].items()
    ]
    lines.append(f"requests: {'; '.join(marks)}" + (f"; left out: {left_out}" if left_out else ""))
    if summary["decision"]:
        lines.append(f"last decision: {summary['decision']['what'].replace('_', ' ')}: {summary['decision']['why']}")
    if summary["damaged"]:
        lines.append(f"DAMAGED files of events, left out: {', '.join(summary['damaged'])}")
    return "\n".join(lines)


def _left(summary: Mapping[str, Any]) -> str:
    if summary["status"] != "running":
        return "no time left to say"
    left = summary["left_seconds"]
    return "time left not known yet" if left is None else f"about {duration(left)} left if the variants are alike"


def _units(summary: Mapping[str, Any]) -> str:
    names = {"baseline": summary["baseline"], "candidate": summary["candidate"]}
    return ", ".join(f"{names[side]} {n:,}" for side, n in summary["units"].items())


def _row(finding: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    relative = bool(finding["relative"])
    interval = ""
    if finding["low"] is not None or finding["high"] is not None:
        low, high = (effect(finding[end], relative=relative) or "?" for end in ("low", "high"))
        interval = f"{low} … {high}"
    verdict = "open"
    if finding["p_harm"] <= summary["alarm_at"]:
        verdict = "HARM"
    elif finding["p_pass"] <= summary["pass_at"]:
        verdict = "holds"
    return {
        "guardrail": finding["metric"],
        "baseline": finding["baseline_units"],
        "candidate": finding["candidate_units"],
        "estimate": effect(finding["estimate"], relative=relative),
        "interval": interval,
        "margin": effect(finding["margin"], relative=relative),
        "p harm": finding["p_harm"],
        "p pass": finding["p_pass"],
        "verdict": verdict,
    }


def plan_text(plan: RolloutPlan) -> str:
    """What a rollout is expected to see and to take."""
    rows = [
        {
            "guardrail": row.metric,
            "margin": effect(row.margin, relative=row.relative),
            "detectable beyond it": effect(row.detectable_at_minimum, relative=row.relative) or "nothing yet",
            "units to pass": row.units if row.units is not None else "not if both are alike",
            "time for them": duration(row.seconds) if row.seconds is not None else "",
            "assumed of the baseline": row.assumed or "nothing: its spread is not known",
        }
        for row in plan.guardrails
    ]
    whole = (
        f"about {duration(plan.seconds)} in all" if plan.seconds is not None else "may never pass with equal variants"
    )
    return (
        f"{table(rows)}\n\ndetectable beyond it: harm so far beyond the margin raises the alarm, with the wanted "
        f"power, when both sides\nhave just their minimum of users; it shrinks as more come\n"
        f"expected: {whole} for a candidate like the baseline, at "
        f"{60 * plan.units_per_second:,.3g} new users a minute on both; the step at {plan.share:g} % decides"
    )


def history_text(decisions: Iterable[Decision]) -> str:
    """Every decision, one a line, with its reason."""
    rows: list[dict[str, Any]] = []
    for decision in decisions:
        first, *rest = textwrap.wrap(decision.why, WHY_WIDTH) or [""]
        rows.append(
            {
                "#": str(decision.number),
                "at (UTC)": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(decision.at)),
                "step": f"{decision.step}, {decision.share:g} %",
                "decision": decision.what.replace("_", " "),
                "by": decision.by,
                "why": first,
            }
        )
        rows += [{"why": line} for line in rest]
    return table(rows) if rows else "no decisions yet"
