"""A decision as a record: what it holds, what it rests on, and that the newest is the newest."""

from __future__ import annotations

import time

from cluster.artifact import Artifact, Identity, list_artifacts, verify_artifact
from cluster.attempt import Attempt
from cluster.decision import publish_decision
from cluster.store import Store


def report(store: Store) -> Artifact:
    identity = Identity("EvalReport", "evals", 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        attempt.write_text("results.json", "{}")
        record = Artifact(
            kind="EvalReport",
            name="evals",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


def test_of_decisions_within_a_second_the_last_is_the_newest(any_store: Store) -> None:
    while time.time() % 1 > 0.5:  # begin early in a second, so that several fall into it
        time.sleep(0.01)
    made = [
        publish_decision(any_store, candidate="Model/b", baseline="Model/a", verdict="pass", by=str(number)).id
        for number in range(6)
    ]
    assert [each.id for each in list_artifacts(any_store, "Decision")] == made


def test_what_it_rests_on_and_its_page_are_kept(store: Store) -> None:
    evaluation = report(store)
    made = publish_decision(
        store,
        candidate="Model/b",
        baseline="Model/a",
        verdict="fail",
        checks=[{"name": "arc_easy", "verdict": "fail"}],
        by="me",
        inputs={"candidate": evaluation},
        page="<p>why",
    )
    assert made.inputs["candidate"].id == evaluation.id
    assert made.identity["inputs"] == {"candidate": evaluation.fingerprint}
    assert {entry.path for entry in made.files} == {"decision.json", "report.html"}
    assert verify_artifact(store, made) == []
