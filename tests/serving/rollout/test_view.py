"""What people are told about a rollout: what it still waits for, and how it ended."""

from __future__ import annotations

import re

import pytest

from serving.control import changes
from serving.rollout.view import status_text

RAILS = (
    {"metric": "error_rate", "margin": 0.05},
    {"metric": "first_token_seconds", "margin": 0.3, "optional": True},
    {"metric": "liked", "margin": 0.1, "higher_is_better": True},
)
EVEN = {"steps": (50, 100), "guardrails": RAILS, "minimum_seconds": 20}


def needs(w):
    return {each["metric"]: each for each in w.run.summary()["needs"]}


def test_each_open_guardrail_says_how_many_users_it_still_needs(world, arm):
    w = world(rollout=EVEN, base=arm(liked=0.5), tuned=arm(liked=0.5), users_per_second=2.0)
    w.until(lambda: False, 100)
    first, text = needs(w), status_text(w.run.summary())
    assert first.keys() >= {"error_rate", "liked"}
    assert re.search(r"error_rate is open: needs about [\d,]+ more users a side if the variants are alike", text)
    plan = {row["metric"]: row["units"] for row in w.run.summary()["plan"]}
    for metric, need in first.items():
        counted = sum(
            each["baseline_units"] + each["candidate_units"]
            for each in w.run.summary()["guardrails"]
            if each["metric"] == metric
        )
        assert abs(need["baseline"] + need["candidate"] - (plan[metric] - counted)) <= 2
    slowest = max(need["seconds"] for need in first.values())
    assert w.run.summary()["left_seconds"] == pytest.approx(slowest) and slowest > 60
    w.until(lambda: False, 100)
    assert needs(w)["liked"]["baseline"] < first["liked"]["baseline"]


def test_a_metric_that_nobody_reports_is_named_and_no_time_is_promised(world, arm):
    settings = EVEN | {"minimum_seconds": 120}
    w = world(rollout=settings, base=arm(streams=False), tuned=arm(streams=False), users_per_second=20.0)
    assert w.until(lambda: min(w.run.summary()["units"].values()) > 0, 100)
    w.tick()
    assert w.run.summary()["elapsed_seconds"] < 120 and w.run.summary()["left_seconds"] is None
    w.until(lambda: False, 600)
    summary, text = w.run.summary(), status_text(w.run.summary())
    assert needs(w).keys() == {"liked"}, "an optional one that nobody measures keeps nothing"
    assert "liked is open: not measured on base and tuned yet; needs about" in text
    assert summary["left_seconds"] is None and "no time left to say" in text and "0.0s left" not in text
    assert re.search(r"first_token_seconds +0 +0 .* not measured", text)


def test_more_users_than_planned_are_judged_by_the_interval(world, arm):
    w = world(
        rollout={"steps": (50, 100), "guardrails": ({"metric": "error_rate", "margin": 0.05},)},
        base=arm(errors=0.01),
        tuned=arm(errors=0.045),
        users_per_second=10.0,
    )
    w.until(lambda: False, 150)
    assert w.status == "running"
    (need,) = w.run.summary()["needs"]
    assert need["why"].endswith("if the difference stays as it looks now") and need["baseline"] > 0
    assert w.run.summary()["left_seconds"] == pytest.approx(need["seconds"])


def test_no_number_of_users_is_promised_to_a_candidate_that_looks_no_better(world, arm):
    rails = ({"metric": "token_seconds", "test": "superiority"},)
    w = world(
        rollout={"steps": (50, 100), "guardrails": rails}, tuned=arm(token_s=arm().token_s * 1.01), users_per_second=5.0
    )
    w.until(lambda: False, 300)
    (need,) = w.run.summary()["needs"]
    assert w.run.summary()["guardrails"][0]["estimate"] > 0
    assert (need["why"], need["baseline"]) == ("tuned does not look better than base now", None)
    assert w.run.summary()["left_seconds"] is None


def test_a_step_that_decides_nothing_says_so_and_names_the_users_that_it_needs(world):
    w = world(users_per_second=2.0)
    assert "the step has not begun" in status_text(w.run.summary())
    w.until(lambda: False, 50)
    text = status_text(w.run.summary())
    missing = 50 - w.run.summary()["units"]["candidate"]
    assert f"(at least 50 a side: {missing} more on tuned)" in text
    assert "what is open may stay so in this step; step 2 must show it to hold" in text
    assert w.run.summary()["needs"] == []


def test_nothing_is_about_to_pass_while_users_are_missing_on_one_side(world, arm):
    rails = ({"metric": "error_rate", "margin": 0.02},)
    w = world(rollout={"steps": (50, 100), "guardrails": rails}, tuned=arm(lost=0.5), users_per_second=10.0)
    assert w.until(lambda: w.run.summary()["left_seconds"] is not None, 100)
    assert w.until(lambda: w.run.machine.in_doubt, 200)
    assert needs(w) and w.run.summary()["left_seconds"] is None


def test_a_finished_rollout_says_what_ended_it_and_when(world, arm):
    w = world(users_per_second=20.0, tuned=arm(errors=0.5))
    assert w.to_the_end() == "rolled_back"
    text = status_text(w.run.summary())
    assert re.search(r"tuned against base, rolled back\n\d{4}-.* UTC by rollout, after \d+s: tuned is worse than", text)
    assert re.search(r"error_rate .* HARM", text)
    assert "in this step" not in text and "time left" not in text and "on the candidate" not in text


def test_a_rollout_that_is_ended_before_its_first_user_shows_no_numbers(world):
    w = world(users_per_second=20.0)
    w.change(changes.promoted, by="ann", reason="it is fine")
    w.tick(traffic=False)
    lines = status_text(w.run.summary()).splitlines()
    assert lines[0].endswith("tuned against base, promoted")
    assert re.search(r"UTC by ann, after .*: it is fine$", lines[1])
    assert lines[2:] == ["step 1 of 3 ([10] → 50 → 100 %)"]


def test_an_end_that_no_controller_saw_yet_is_said(world):
    w = world(users_per_second=20.0)
    w.until(lambda: False, 5)
    text = status_text({**w.run.summary(), "status": "rolled_back"})
    assert "its end is not recorded yet" in text and "guardrail" not in text
