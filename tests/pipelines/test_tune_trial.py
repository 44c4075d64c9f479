"""A trial's stages without Ray: what is reported, when it stops, and that one of two makes what both need."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, Identity
from cluster.config import parse_document
from cluster.errors import UserError
from cluster.stage import Paused, Result, Stage
from cluster.store import Store
from pipelines.recipe import validate_recipe
from pipelines.tune import trial
from pipelines.tune.trial import Stages, Work

RECIPE = "corpus: {sources: [{kind: jsonl, path: docs.jsonl}]}\npretrain:\n"
START = {"kind": "start", "step": 0, "steps": 40}


def validation(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "loss": loss}


@pytest.fixture
def work(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Work:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    (tmp_path / "locks").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = validate_recipe(parse_document(RECIPE, "r.yaml"))
    return Work(recipe, store, "pretrain", "pretrain", str(tmp_path / "locks"), str(tmp_path), after_step=0)


def made(identity: Identity) -> Result:
    artifact = Artifact(
        kind=identity.kind,
        name=identity.name,
        fingerprint=identity.fingerprint,
        identity=identity.fields(),
        attempt="a",
        files=[],
        metrics={"validation.loss": 2.5},
    )
    return Result(artifact, False, 0.0)


class Executed:
    """In place of :func:`cluster.stage.execute`: keeps what was asked for, and lets pretraining say its records."""

    def __init__(self, *polls: Sequence[dict[str, Any]]) -> None:
        self.polls, self.names = polls, list[str]()
        self.inputs: dict[str, list[str]] = {}
        self.until: dict[str, float | None] = {}

    def __call__(
        self, stage: Stage, identity: Identity, config: Any, inputs: Any, *rest: Any, watch: Any, until: Any
    ) -> Result:
        self.until[identity.name] = until
        self.names.append(identity.name)
        self.inputs[identity.name] = sorted(inputs)
        assert (watch is not None) == (identity.name == "pretrain")
        for records in self.polls if watch else ():
            watch(records)
        return made(identity)


def test_stages_run_in_order_and_validations_are_reported_once(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [START, validation(0, 6.0), validation(4, 5.0)]
    executed = Executed(first, first, [*first, validation(8, 4.0), validation(40, 3.0)])
    monkeypatch.setattr(trial, "execute", executed)
    stages = Stages(work)
    outcome = stages.run()
    assert executed.names == ["corpus", "curate", "tokenizer", "tokens", "pretrain"]
    assert executed.inputs["pretrain"] == ["tokenizer", "tokens"]
    assert outcome["kind"] == "finished"
    assert outcome["final_loss"] == 2.5
    assert list(outcome["artifacts"]) == executed.names
    assert Artifact.model_validate(outcome["artifact"]).name == "pretrain"
    expected = [{"step": 4, "progress": 10.0, "loss": 5.0}, {"step": 8, "progress": 20.0, "loss": 4.0}]
    assert stages.news(0) == expected
    assert stages.news(1) == expected[1:]


def test_what_an_earlier_driver_knows_is_not_reported_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    again = [
        START,
        validation(4, 5.0),
        validation(8, 4.0),
        {"kind": "start", "step": 8, "steps": 40},
        validation(12, 3.0),
    ]
    monkeypatch.setattr(trial, "execute", Executed(again))
    stages = Stages(Work(**{**vars(work), "after_step": 8}))
    stages.run()
    assert [each["step"] for each in stages.news(0)] == [12]


def test_a_member_of_a_population_pauses(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only training is asked to. What a journal has of later steps, from a try that came further, is not its own."""

    class Pausing(Executed):
        def __call__(self, *arguments: Any, **more: Any) -> Result:
            result = super().__call__(*arguments, **more)
            if more["until"] is not None:
                raise Paused(20, 3.5)
            return result

    executed = Pausing([START, validation(8, 4.0), validation(20, 3.5), validation(24, 1.0)])
    monkeypatch.setattr(trial, "execute", executed)
    stages = Stages(Work(**{**vars(work), "until": 0.5}))
    assert stages.run() == {"kind": "paused", "step": 20, "loss": 3.5}
    assert [each["step"] for each in stages.news(0)] == [8, 20]
    assert executed.until == dict.fromkeys(["corpus", "curate", "tokenizer", "tokens"]) | {"pretrain": 0.5}


def test_a_trial_that_is_to_stop_does(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(Executed):
        def __call__(self, *arguments: Any, watch: Any, until: Any) -> Result:
            if watch:
                stages.stop()
            return super().__call__(*arguments, watch=watch, until=until)

    executed = Stopping([START, validation(4, 5.0)])
    monkeypatch.setattr(trial, "execute", executed)
    stages = Stages(work)
    assert stages.run() == {"kind": "stopped"}
    assert stages.news(0) == []
    stages = Stages(work)
    stages.stop()
    executed.names.clear()
    assert stages.run() == {"kind": "stopped"}
    assert executed.names == []


def test_a_stage_that_fails_fails_the_trial(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **more: Any) -> Result:
        raise UserError("too few documents", where="corpus")

    monkeypatch.setattr(trial, "execute", fail)
    with pytest.raises(UserError, match="too few documents"):
        Stages(work).run()


def test_of_two_trials_one_makes_what_both_need(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most = 0, 0
    guard = threading.Lock()
    entered, leave = threading.Event(), threading.Event()

    def execute(stage: Stage, identity: Identity, *rest: Any, watch: Any, until: Any) -> Result:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        entered.set()
        leave.wait(30)
        with guard:
            inside -= 1
        return made(identity)

    monkeypatch.setattr(trial, "execute", execute)
    monkeypatch.setattr(trial, "POLL_S", 0.01)
    corpus = Work(**{**vars(work), "last": "corpus", "trained": None})
    threads = [threading.Thread(target=Stages(corpus).run) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    waiting = Stages(corpus)  # a third one, that is stopped while it waits
    outcome: list[Any] = []
    third = threading.Thread(target=lambda: outcome.append(waiting.run()))
    third.start()
    waiting.stop()
    third.join(30)
    assert outcome == [{"kind": "stopped"}]
    leave.set()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert len(os.listdir(work.locks)) == 1
