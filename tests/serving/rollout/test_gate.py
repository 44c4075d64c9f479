"""No candidate without an evaluation that says pass, of exactly these two models."""

from __future__ import annotations

import time

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.decision import publish_decision
from cluster.errors import UserError
from cluster.stage import provenance
from cluster.store import open_store
from serving.rollout.gate import GateClosed, decision_for, required_decision

BASE, TUNED, OTHER = "Model/base-0123456789ab", "Model/tuned-0123456789ab", "Model/other-0123456789ab"


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def publish(store, candidate, baseline, verdict, checks=(), kind="Decision", number=0):
    """A decision as the evaluation will publish it, through the same artifact API."""
    identity = Identity(kind, "gate", 1, {"number": number, "verdict": verdict}, {"candidate": candidate})
    details = {"candidate": candidate, "baseline": baseline, "verdict": verdict, "checks": list(checks)}
    with Attempt(store, identity.id) as attempt:
        attempt.write_json("decision.json", details)
        return attempt.publish(
            Artifact(
                kind=kind,
                name="gate",
                fingerprint=identity.fingerprint,
                identity=identity.fields(),
                attempt=attempt.name,
                files=attempt.seal(),
                details=details,
                provenance=provenance(time.time()) | {"finished": f"2026-01-01T00:00:{number:02}Z"},
            )
        )


def test_a_decision_that_says_pass_opens_the_gate(store):
    decision = publish(store, TUNED, BASE, "pass")
    assert decision_for(store, TUNED, BASE, "newest") == decision.id
    assert decision_for(store, TUNED, BASE, decision.id) == decision.id
    assert decision_for(store, TUNED, BASE, "none") == ""


def test_the_newest_of_the_pair_counts(store):
    publish(store, TUNED, BASE, "pass", number=1)
    publish(store, TUNED, BASE, "fail", number=2, checks=[{"name": "arc_easy", "verdict": "fail"}])
    publish(store, OTHER, BASE, "pass", number=3)
    with pytest.raises(UserError, match="must not replace the baseline: arc_easy"):
        decision_for(store, TUNED, BASE, "newest")
    again = publish(store, TUNED, BASE, "pass", number=4)
    assert decision_for(store, TUNED, BASE, "newest") == again.id


def test_none_at_all_says_how_one_is_made(store):
    with pytest.raises(UserError) as caught:
        decision_for(store, TUNED, BASE, "newest")
    assert f"no evaluation decision lets {TUNED} replace {BASE}" in str(caught.value)
    assert "publish a decision of this pair" in caught.value.next_step
    assert isinstance(caught.value, GateClosed)
    publish(store, BASE, TUNED, "pass")
    with pytest.raises(UserError, match="is of Model/base-0123456789ab against Model/tuned"):
        decision_for(store, TUNED, BASE, "newest")


@pytest.mark.parametrize(
    ("candidate", "baseline", "verdict", "words"),
    [
        (TUNED, BASE, "fail", "must not replace"),
        (TUNED, BASE, "no_evidence", "no evidence either way"),
        (TUNED, OTHER, "pass", "about other models"),
        (BASE, TUNED, "pass", "about other models"),
    ],
)
def test_a_named_decision_must_fit(store, candidate, baseline, verdict, words):
    decision = publish(store, candidate, baseline, verdict)
    with pytest.raises(UserError, match=words) as caught:
        decision_for(store, TUNED, BASE, decision.id)
    assert caught.value.where == decision.id
    assert caught.value.exit_code == 2


def test_only_the_checks_that_did_not_pass_are_named(store):
    checks = [{"name": "arc_easy", "verdict": "pass"}, {"name": "mmlu", "verdict": "no_evidence"}]
    decision = publish(store, TUNED, BASE, "no_evidence", checks=checks)
    with pytest.raises(UserError, match="either way: mmlu") as caught:
        decision_for(store, TUNED, BASE, decision.id)
    assert "arc_easy" not in str(caught.value)


def test_another_kind_of_artifact_is_no_decision(store):
    report = publish(store, TUNED, BASE, "pass", kind="EvalReport")
    with pytest.raises(UserError, match="is a EvalReport, not a Decision"):
        decision_for(store, TUNED, BASE, report.id)


def test_a_gate_knows_what_its_variants_are(store, rollout_config, serving_state):
    config = rollout_config(gate="newest")
    state = serving_state(config)
    decision = publish(store, TUNED, BASE, "pass")
    assert required_decision(store, state, config) == decision.id
    with pytest.raises(UserError, match="no variant is called"):
        required_decision(store, state, rollout_config(candidate="nobody", gate="newest"))


def test_an_aa_rollout_needs_no_decision_but_one_model(store, rollout_config, serving_state):
    config = rollout_config(mode="aa", steps=None, gate="newest")
    assert required_decision(store, serving_state(config), config) == ""
    with pytest.raises(UserError, match="compares a model with itself"):
        required_decision(store, serving_state(rollout_config()), config)


def test_a_folder_is_named_by_its_path_and_what_nothing_tells_apart_is_said(store, rollout_config, serving_state):
    same = serving_state(rollout_config(mode="aa", steps=None))
    with pytest.raises(UserError, match="both variants have the same model"):
        required_decision(store, same, rollout_config(gate="newest"))
    folder = serving_state(rollout_config()).model_dump()
    folder["engines"]["tuned"]["source"] = {"artifact": "", "folder": "/models/tuned"}
    state = type(same).model_validate(folder)
    with pytest.raises(GateClosed, match="no evaluation decision lets /models/tuned replace"):
        required_decision(store, state, rollout_config(gate="newest"))
    decision = publish_decision(store, candidate="/models/tuned", baseline=BASE, verdict="pass", by="me")
    assert required_decision(store, state, rollout_config(gate="newest")) == decision.id
    assert required_decision(store, state, rollout_config(gate="none")) == ""
