"""A rollout as a page: shares over time, each guardrail's confidence sequence against its margin, every decision."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cluster.progress import duration
from cluster.report import Page
from serving.rollout.config import GuardrailConfig
from serving.rollout.decision import Decision, Finding
from serving.rollout.events import Event
from serving.rollout.machine import Machine
from serving.rollout.plan import effect

MOST_POINTS = 400
NARROW = "\u00a0"
_OUTCOMES = {
    "promoted": "promoted",
    "rolled_back": "rolled back",
    "finished": "finished",
    "running": "running",
    "paused": "paused",
}


@dataclass
class Timeline:
    """What the charts show, gathered while events are folded; thinned so that it stays small.

    Attributes:
        shares: (seconds since the epoch, per cent on the candidate).
        findings: step -> (when, what the guardrails' numbers said).
    """

    shares: list[tuple[float, float]] = field(default_factory=list)
    findings: dict[int, list[tuple[float, tuple[Finding, ...]]]] = field(default_factory=dict)

    def follow(self, event: Event, machine: Machine) -> None:
        """Take in one event."""
        at = float(event["at"])
        if event["kind"] == "state":
            weights = event["weights"]
            total = sum(weights.values())
            share = 100 * weights[machine.config.candidate] / total if total else 0.0
            if self.shares:
                self.shares.append((at, self.shares[-1][1]))
            self.shares.append((at, share))
        elif event["kind"] == "units" and machine.phase == "comparing":
            points = self.findings.setdefault(machine.step, [])
            points.append((at, machine.evidence.findings()))
            if len(points) > 2 * MOST_POINTS:
                del points[1:-1:2]


def render(deployment: str, rollout: str, start: Event, machine: Machine, timeline: Timeline) -> str:
    """The page as HTML."""
    config, decisions = machine.config, machine.decisions
    began, ended = decisions[0].at, decisions[-1].at
    page = Page(f"Rollout {rollout}", f"{config.candidate} against {config.baseline}, deployment {deployment}")
    page.figures(
        {
            "outcome": _OUTCOMES[machine.status],
            "took": duration(ended - began),
            "decisions": len(decisions),
            "alpha, all alarms together": config.alpha,
            "each alarm at": config.alarm_alpha,
            "unit": config.unit,
        }
    )
    page.paragraph(decisions[-1].why[:1].upper() + decisions[-1].why[1:] + ".")
    page.heading("Users on the candidate")
    shares = (
        [(at - began, share) for at, share in [*timeline.shares, (ended, timeline.shares[-1][1])]]
        if (timeline.shares)
        else []
    )
    page.line_chart("Share of the pair's users", {config.candidate: shares}, "seconds since the start", "per cent")
    page.heading("Decisions")
    page.table([_row(decision, began) for decision in decisions])
    _guardrails(page, machine, timeline, began)
    page.heading("Numbers behind the decisions")
    page.table([row for decision in decisions for row in _numbers(decision)])
    page.table([row for decision in decisions for row in _sides(decision)])
    page.heading("What was expected at the start")
    page.paragraph(str(start["why"])[:1].upper() + str(start["why"])[1:] + ".")
    page.table(
        [
            {
                "guardrail": row["metric"],
                "margin": effect(row["margin"], relative=row["relative"]),
                "assumed of the baseline": row["assumed"],
                "detectable beyond it at the minimum": effect(row["detectable_at_minimum"], relative=row["relative"]),
                "units for an equal candidate to pass": row["units"],
            }
            for row in start["plan"]["guardrails"]
        ]
    )
    page.heading("What it stood on")
    page.table(
        [{"variant": name, "model": model} for name, model in start["models"].items()]
        + [{"variant": "evaluation decision", "model": start["decision"] or "none was asked for"}]
    )
    return page.render()


def _row(decision: Decision, began: float) -> dict[str, object]:
    return {
        "after": duration(decision.at - began),
        "at (UTC)": time.strftime("%Y-%m-%d\u00a0%H:%M:%S", time.gmtime(decision.at)).replace("-", "\u2011"),
        "step": decision.step,
        "share": f"{decision.share:g}\u00a0%",
        "decision": decision.what.replace("_", "\u00a0"),
        "why": decision.why,
        "by": decision.by,
    }


def _numbers(decision: Decision) -> list[dict[str, object]]:
    """One row a guardrail, of decisions that numbers made."""
    if decision.what in ("start", "begin", "bake", "pause", "resume", "weights") or not decision.findings:
        return []
    return [
        {
            "decision": _name(decision),
            "guardrail": finding.metric,
            "baseline n": finding.baseline_units,
            "candidate n": finding.candidate_units,
            "estimate": effect(finding.estimate, relative=finding.relative),
            "from": effect(finding.low, relative=finding.relative),
            "to": effect(finding.high, relative=finding.relative),
            "margin": effect(finding.margin, relative=finding.relative),
            "p harm": finding.p_harm,
            "p pass": finding.p_pass,
        }
        for finding in decision.findings
    ]


def _name(decision: Decision) -> str:
    return f"{decision.number}{NARROW}{decision.what.replace('_', NARROW)}"


def _sides(decision: Decision) -> list[dict[str, object]]:
    """What was counted on each side by a decision that numbers made."""
    if not _numbers(decision):
        return []
    rows: list[dict[str, object]] = []
    for side, counts in decision.sides.items():
        left_out = {name.partition(".")[2]: n for name, n in decision.excluded.items() if name.startswith(f"{side}.")}
        row = {"decision": _name(decision), "side": side, **counts}
        row["left out"] = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in left_out.items())
        rows.append(row | {"p sample ratio": decision.ratio_p, "p given up": decision.gave_up_p})
    return rows


def _guardrails(page: Page, machine: Machine, timeline: Timeline, began: float) -> None:
    """Confidence sequences, one chart a guardrail, of the last step that has any."""
    if not timeline.findings:
        return
    step = max(timeline.findings)
    page.heading(f"Guardrails at {machine.shares[step]:g} %")
    page.paragraph(
        "The confidence sequence holds the true effect at every moment at once; a guardrail holds when all of it is "
        "on the good side of the margin, and alarms when all of it is on the bad side (at the stricter alarm level)."
    )
    for index, guardrail in enumerate(machine.config.guardrails):
        points = [(at - began, findings[index]) for at, findings in timeline.findings[step]]
        _chart(page, guardrail, points)


def _chart(page: Page, guardrail: GuardrailConfig, points: list[tuple[float, Finding]]) -> None:
    scale = 100.0 if guardrail.relative or guardrail.metric == "error_rate" else 1.0
    unit = {True: "per cent of the baseline", False: "difference"}[guardrail.relative]
    if guardrail.metric == "error_rate":
        unit = "percentage points"
    margin = scale * (guardrail.margin if guardrail.lower_is_better else -guardrail.margin)
    known = [(at, finding) for at, finding in points if finding.low is not None and finding.high is not None]
    if not known:
        page.paragraph(f"{guardrail.metric}: too few units for an interval.")
        return
    # the first intervals are as wide as the scale allows; what matters is where they end
    final = known[-1][1]
    reach = 6 * max(scale * ((final.high or 0.0) - (final.low or 0.0)), abs(margin), 1e-9)
    shown = [(at, finding) for at, finding in known if scale * ((finding.high or 0) - (finding.low or 0)) <= reach]
    page.line_chart(
        guardrail.metric,
        {
            "estimate": [(at, scale * (finding.estimate or 0.0)) for at, finding in shown],
            "low": [(at, scale * (finding.low or 0.0)) for at, finding in shown],
            "high": [(at, scale * (finding.high or 0.0)) for at, finding in shown],
            "margin": [(shown[0][0], margin), (shown[-1][0], margin)],
        },
        "seconds since the start",
        unit,
    )
