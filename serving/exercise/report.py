"""An exercise's record as a page to look at and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.progress import table
from cluster.report import Page
from serving.exercise.traffic import KINDS, TrafficReport, quantile

SHOWN_PROBLEMS = 20


def lines(report: TrafficReport) -> list[str]:
    """The record for a terminal."""
    text = [
        f"{len(report.calls)} requests for {report.model} ({_kinds(report)}), {len(report.failures)} failed",
        "",
        f"split at weights {_weights(report.weights_before)}",
        table(_split_rows(report, "before")),
        "",
        "latency",
        table(_latency_rows(report)),
        "",
        f"weights changed to {_weights(report.weights_after)} in {report.switch_seconds * 1000:.0f} ms while requests "
        f"were under way: {report.moved_users} of {len(report.assigned_before)} users moved",
        table(_split_rows(report, "after")),
        f"{len(report.phase('during'))} more requests were under way while the weights changed",
        "",
    ]
    text += [f"{'yes' if held else 'NO '}  {what}" for what, held in report.checks().items()]
    text += [f"     {problem}" for problem in _problems(report)]
    return text


def render(report: TrafficReport) -> str:
    """The record as a self-contained HTML page."""
    page = Page("Serving", f"{report.model}: {' / '.join(report.weights_before)} behind one OpenAI-compatible URL")
    page.figures(
        {
            "requests": len(report.calls),
            "failed": len(report.failures),
            "users": len(report.assigned_before),
            "users that changed variant by themselves": len(report.violations()),
            "ms to change the weights": round(report.switch_seconds * 1000, 1),
            "users moved by the change": report.moved_users,
        }
    )
    page.heading("What was to be shown")
    page.table([{"claim": what, "holds": "yes" if held else "no"} for what, held in report.checks().items()])
    page.heading(f"Split at weights {_weights(report.weights_before)}")
    page.paragraph(
        "Each user is hashed onto one of 10,000 buckets, and buckets belong to variants; few users therefore split "
        "close to the weights, not exactly by them."
    )
    page.table(_split_rows(report, "before"))
    page.heading(f"After the change to {_weights(report.weights_after)}")
    page.table(_split_rows(report, "after"))
    page.paragraph(
        f"{len(report.phase('during'))} more were under way while the weights changed; the latencies count them too."
    )
    page.heading("Latency")
    page.paragraph("As the client sees it, over all phases; the first token is measured on streams.")
    page.table(_latency_rows(report))
    page.line_chart(
        "Latency distribution",
        {variant: points for variant in report.weights_before if (points := _distribution(report, variant))},
        "share of requests (%)",
        "seconds",
    )
    page.heading("Engines")
    page.table(_engine_rows(report))
    problems = _problems(report)
    if problems:
        page.heading("Problems")
        page.sample(f"{len(report.failures)} failed, {len(report.violations())} moved", "\n".join(problems), 4000)
    return page.render()


def _weights(weights: Mapping[str, float]) -> str:
    return " / ".join(f"{name} {weight:g}" for name, weight in weights.items())


def _kinds(report: TrafficReport) -> str:
    counts = {kind: sum(call.kind == kind for call in report.calls) for kind in KINDS}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def _split_rows(report: TrafficReport, phase: str) -> list[Mapping[str, Any]]:
    return [
        {
            "variant": split.variant,
            "expected %": round(100 * split.expected_share, 2),
            "requests": split.requests,
            "requests %": round(100 * split.request_share, 2),
            "users": split.users,
            "users %": round(100 * split.user_share, 2),
        }
        for split in report.splits(phase)
    ]


def _latency_rows(report: TrafficReport) -> list[Mapping[str, Any]]:
    return [
        {
            "variant": each.variant,
            "requests": each.requests,
            "p50 ms": _ms(each.p50_seconds),
            "p95 ms": _ms(each.p95_seconds),
            "first token p50 ms": _ms(each.first_token_p50_seconds),
            "first token p95 ms": _ms(each.first_token_p95_seconds),
        }
        for each in report.latencies()
    ]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _distribution(report: TrafficReport, variant: str) -> list[tuple[float, float]]:
    seconds = [call.seconds for call in report.calls if call.variant == variant and not call.error]
    return [(percent, quantile(seconds, percent / 100)) for percent in range(0, 101, 2)] if seconds else []


def _engine_rows(report: TrafficReport) -> list[Mapping[str, Any]]:
    return [
        {
            "variant": variant,
            "process ids before": _pids(engines),
            "process ids after": _pids(report.engines_after.get(variant, ())),
            "restarted": "no" if engines == report.engines_after.get(variant) else "yes",
        }
        for variant, engines in report.engines_before.items()
    ]


def _pids(engines: Sequence[tuple[int, float]]) -> str:
    return ", ".join(str(pid) for pid, _ in engines)


def _problems(report: TrafficReport) -> list[str]:
    found = [f"{call.user} ({call.kind}): {call.error}" for call in report.failures] + report.violations()
    more = [f"and {len(found) - SHOWN_PROBLEMS} more"] if len(found) > SHOWN_PROBLEMS else []
    return found[:SHOWN_PROBLEMS] + more
