"""A rollout as text on a terminal: where it stands, and its history."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.progress import duration, table
from serving.rollout.decision import Decision
from serving.rollout.machine import ENDED
from serving.rollout.plan import RolloutPlan, effect

WHY_WIDTH, TEXT_WIDTH = 90, 150
_ENDINGS = ("promote", "rollback", "finish")
_WORDS = {
    "moving": "waiting for the step's weights to be in force",
    "waiting": "watching who is on the candidate",
    "comparing": "comparing",
    "baking": "baking: the baseline is kept warm",
    "over": "over",
}


def status_text(summary: Mapping[str, Any]) -> str:
    """Everything about a rollout at a moment, from its summary (see :mod:`serving.rollout.summary`)."""
    if summary["status"] in ENDED:
        return _ended_text(summary)
    state = summary["status"].replace("_", " ")
    if summary["status"] == "running":
        state = _WORDS[summary["phase"]]
        if summary.get("waits_for"):
            waiting = f"waiting until an engine of {summary['waits_for']} answers"
            state = waiting if summary["phase"] == "moving" else f"{state}, {waiting}"
    lines = [
        f"{_head(summary)}, {state}",
        f"{_step(summary, summary['step'])}, {summary['share']:g} % on the candidate",
        _time(summary),
        f"units: {_units(summary)} ({_least(summary)}); {summary['open_units']:,} open; {_doubts(summary)}",
        "",
    ]
    if summary["guardrails"]:
        lines += [table([_row(finding, summary) for finding in summary["guardrails"]]), ""]
    if needs := summary.get("needs"):
        lines += [*(f"{need['metric']} is open: {need['why']}" for need in needs), ""]
    elif _may_stay_open(summary):
        lines += [_may_stay_open(summary), ""]
    lines.append(_requests(summary["sides"], summary["excluded"]))
    if summary["decision"]:
        lines += _wrapped(
            f"last decision: {summary['decision']['what'].replace('_', ' ')}: {summary['decision']['why']}"
        )
    return "\n".join(lines + _damaged(summary))


def _ended_text(summary: Mapping[str, Any]) -> str:
    """What ended it, when, and the numbers of that decision, if there are any."""
    lines = [f"{_head(summary)}, {summary['status'].replace('_', ' ')}"]
    last = summary["decision"]
    if not last or last["what"] not in _ENDINGS:
        lines.append("its end is not recorded yet: the controller does that, when the deployment is served")
        return "\n".join(lines + _damaged(summary))
    lasted = f", after {duration(last['at'] - summary['started_at'])}" if summary.get("started_at") else ""
    lines += _wrapped(f"{_when(last['at'])} UTC by {last['by']}{lasted}: {last['why']}")
    lines.append(_step(summary, last["step"]))
    counts = {side: counted for side, counted in last["sides"].items() if counted.get("units")}
    if counts:
        units = ", ".join(f"{summary[side]} {counted['units']:,}" for side, counted in counts.items())
        lines += [f"units: {units}; {_doubts(last)}", ""]
        findings = [each for each in last["findings"] if each["baseline_units"] or each["candidate_units"]]
        if findings:
            lines += [table([_row(finding, summary) for finding in findings]), ""]
        lines.append(_requests(counts, last["excluded"]))
    return "\n".join(lines + _damaged(summary))


def _head(summary: Mapping[str, Any]) -> str:
    return f"rollout {summary['id']}: {summary['candidate']} against {summary['baseline']}"


def _step(summary: Mapping[str, Any], step: int) -> str:
    steps = " → ".join(f"[{s:g}]" if i + 1 == step else f"{s:g}" for i, s in enumerate(summary["steps"]))
    return f"step {step} of {len(summary['steps'])} ({steps} %)"


def _least(summary: Mapping[str, Any]) -> str:
    """How many units the step needs in any case, and what is missing to that."""
    text = f"at least {summary['minimum_units']:,} a side"
    sides = ["candidate"] if summary["phase"] == "baking" else ["baseline", "candidate"]
    if summary["phase"] not in ("comparing", "baking"):
        return text
    missing = {summary[side]: summary["minimum_units"] - summary["units"][side] for side in sides}
    more = " and ".join(f"{number:,} more on {name}" for name, number in missing.items() if number > 0)
    return f"{text}: {more}" if more else text


def _may_stay_open(summary: Mapping[str, Any]) -> str:
    """Why open guardrails do not keep this step; empty where they do, or none is open."""
    is_open = any(finding["p_pass"] > summary["pass_at"] for finding in summary["guardrails"])
    if summary["phase"] != "comparing" or summary.get("deciding", True) or not is_open:
        return ""
    if summary["mode"] == "aa":
        return "what is open may stay so: an A/A test only looks for alarms"
    return f"what is open may stay so in this step; step {len(summary['steps']) - 1} must show it to hold"


def _doubts(numbers: Mapping[str, Any]) -> str:
    return f"sample ratio p = {numbers['ratio_p']:.3g}; given up p = {numbers.get('gave_up_p', 1.0):.3g}"


def _requests(sides: Mapping[str, Mapping[str, int]], excluded: Mapping[str, int]) -> str:
    marks = [
        f"{side} {counts['errors']:,} errors, {counts['retried']:,} retried, {counts['fallback']:,} fallen back, "
        f"{counts.get('gave_up', 0):,} given up"
        for side, counts in sides.items()
    ]
    left_out = ", ".join(f"{name} {n:,}" for name, n in excluded.items())
    return f"requests: {'; '.join(marks)}" + (f"; left out: {left_out}" if left_out else "")


def _damaged(summary: Mapping[str, Any]) -> list[str]:
    damaged = summary["damaged"]
    return [f"DAMAGED files of events, left out: {', '.join(damaged)}"] if damaged else []


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, TEXT_WIDTH, subsequent_indent="  ")


def _time(summary: Mapping[str, Any]) -> str:
    elapsed, left = summary["elapsed_seconds"], summary["left_seconds"]
    if not elapsed:
        return "the step has not begun"
    known = summary["status"] == "running" and left is not None
    words = f"about {duration(left)} left as it looks now" if known else "no time left to say"
    return f"{duration(elapsed)} in this step, {words}"


def _units(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{summary[side]} {n:,}" for side, n in summary["units"].items())


def _row(finding: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    relative = bool(finding["relative"])
    interval = ""
    if finding["low"] is not None or finding["high"] is not None:
        low, high = (effect(finding[end], relative=relative) or "?" for end in ("low", "high"))
        interval = f"{low} … {high}"
    verdict = "open" if finding["baseline_units"] or finding["candidate_units"] else "not measured"
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
                "at (UTC)": _when(decision.at),
                "step": f"{decision.step}, {decision.share:g} %",
                "decision": decision.what.replace("_", " "),
                "by": decision.by,
                "why": first,
            }
        )
        rows += [{"why": line} for line in rest]
    return table(rows) if rows else "no decisions yet"
