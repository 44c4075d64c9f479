"""The exercise's record says what happened, and its checks fail when what they claim is not so."""

from dataclasses import replace

import pytest

from serving.exercise import report
from serving.exercise.traffic import Call, TrafficReport, quantile

WAS, IS = {"base": 90, "tuned": 10}, {"base": 0, "tuned": 100}


def good_report() -> TrafficReport:
    users = {f"u{index}": "tuned" if index % 10 == 0 else "base" for index in range(40)}
    record = TrafficReport("demo", WAS, IS, moved_share=0.9, switch_seconds=0.01)
    record.assigned_before, record.assigned_after = users, dict.fromkeys(users, "tuned")
    record.engines_before = record.engines_after = {"base": ((7, 1.0),), "tuned": ((7, 1.0),)}
    for index, (user, variant) in enumerate(users.items()):
        for phase, answered in (("before", variant), ("during", variant), ("after", "tuned")):
            first = 0.01 if index % 2 else None
            record.calls.append(Call(phase, user, "completion", answered, (index + 1) / 100, first, 16, ""))
    return record


def failing(record: TrafficReport) -> list[str]:
    return [claim for claim, held in record.checks().items() if not held]


def test_a_good_run_passes_and_its_figures_add_up():
    record = good_report()
    assert record.passed and not failing(record)
    base, tuned = record.splits("before")
    assert (base.requests, base.users, base.request_share, base.expected_share) == (36, 36, 0.9, 0.9)
    assert (tuned.requests, tuned.users) == (4, 4)
    assert record.moved_users == 36
    metrics = record.metrics()
    assert metrics["serving.requests"] == 120
    assert metrics["serving.failed"] == metrics["serving.sticky_violations"] == 0
    assert metrics["serving.tuned.share"] == pytest.approx(0.1)


def break_failed_call(record):
    record.calls[0] = replace(record.calls[0], variant="", error="APIStatusError: 503")


def break_stickiness(record):
    record.calls[3] = replace(record.calls[3], variant="tuned")


def break_after(record):
    record.calls[-1] = replace(record.calls[-1], variant="base")


def break_engine(record):
    record.engines_after = {"base": ((8, 2.0),), "tuned": ((8, 2.0),)}


def break_split(record):
    record.calls[:] = [replace(c, variant="tuned") if c.phase == "before" else c for c in record.calls]


@pytest.mark.parametrize(
    ("break_it", "claim"),
    [
        (break_failed_call, "every request was answered"),
        (break_stickiness, "every user stayed on one variant"),
        (break_after, "after the change only the new weights answer"),
        (break_engine, "no engine restarted"),
        (break_split, "the split is the configured one"),
    ],
)
def test_each_check_notices_when_its_claim_does_not_hold(break_it, claim):
    record = good_report()
    break_it(record)
    assert claim in failing(record)
    assert not record.passed
    assert any(line.startswith("NO ") and claim in line for line in report.lines(record))


def test_an_empty_record_does_not_pass():
    assert not TrafficReport("demo", WAS, IS).passed


def test_a_violation_names_the_user_and_both_variants():
    record = good_report()
    break_stickiness(record)
    assert record.violations() == ["u1: answered by tuned before the change, assigned to base"]


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 5), (0.95, 10), (0.9, 9), (1, 10)])
def test_quantiles_are_nearest_rank(share, expected):
    assert quantile(range(1, 11), share) == expected


def test_the_page_shows_split_latency_and_engines_and_escapes_what_it_shows():
    record = good_report()
    record.calls[0] = replace(record.calls[0], variant="", error="<script>")
    page = report.render(record)
    assert page.startswith("<!doctype html>") and "<svg" in page
    assert "process ids before" in page and "&lt;script&gt;" in page and "<script" not in page
