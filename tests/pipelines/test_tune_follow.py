"""What Ray Tune reports is in the store at once, whichever way a trial ends."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Callback

from cluster.artifact import Artifact
from cluster.errors import InfraError, UserError
from cluster.store import Store
from pipelines.tune.follow import Follower
from pipelines.tune.objective import Objective
from pipelines.tune.record import Records, TrialRecord


class Tuning:
    """A follower with two trials under way."""

    def __init__(self, store: Store, metric: str = "validation.loss") -> None:
        self.said: list[str] = []
        self.records = Records(store, "x")
        self.tidied = 0
        for number in range(2):
            self.records.put(TrialRecord(number=number, values={"a": number}))
        self.follower = Follower(self.records, Objective("pretrain", metric, "min"), self.tidy, self.said.append)
        for number in range(2):
            self.follower.on_trial_start(0, [], self.trial(number))

    def tidy(self) -> None:
        self.tidied += 1

    def trial(self, number: int) -> Any:
        return SimpleNamespace(config={"number": number}, get_error=lambda: None)

    def result(self, number: int, kind: str, **more: Any) -> None:
        self.follower.on_trial_result(0, [], self.trial(number), {"kind": kind, **more})

    def report(self, number: int, progress: float, loss: float) -> None:
        self.result(number, "report", step=int(progress), progress=progress, loss=loss)

    def finish(self, number: int, loss: float) -> None:
        artifact = Artifact(
            kind="Model",
            name="m",
            fingerprint="0" * 64,
            identity={},
            attempt="a",
            files=[],
            metrics={"validation.loss": loss},
        )
        self.result(number, "finished", artifact=artifact.model_dump(mode="json"), artifacts={"pretrain": "Model/m-0"})


def test_each_way_to_end(store: Store) -> None:
    tuning = Tuning(store)
    tuning.report(0, 10, 4.0)
    tuning.report(1, 10, 5.0)
    tuning.follower.on_trial_complete(0, [], tuning.trial(1))
    tuning.finish(0, 3.0)
    tuning.follower.on_trial_complete(0, [], tuning.trial(0))
    found = Records(store, "x").trials
    assert (found[0].state, found[0].objective, found[0].artifacts) == ("finished", 3.0, {"pretrain": "Model/m-0"})
    assert (found[1].state, found[1].objective) == ("stopped", None)
    assert [(each.order, each.progress) for number in (0, 1) for each in found[number].reports] == [(0, 10), (1, 10)]
    assert found[1].reason == "validation loss 5 at 10 % was behind"
    assert tuning.tidied == 2
    assert any("best so far" in line for line in tuning.said)


def test_failures(store: Store) -> None:
    tuning = Tuning(store)
    tuning.result(0, "failed", reason="it diverged", retry=False)
    tuning.follower.on_trial_complete(0, [], tuning.trial(0))
    tuning.follower.on_trial_error(0, [], tuning.trial(1))
    found = Records(store, "x").trials
    assert (found[0].state, found[0].reason, found[0].is_over) == ("failed", "it diverged", True)
    assert (found[1].state, found[1].is_over) == ("failed", False)


def test_order_goes_on_where_an_earlier_driver_stopped(store: Store) -> None:
    Tuning(store).report(0, 10, 4.0)
    records = Records(store, "x")
    follower = Follower(records, Objective("pretrain", "validation.loss", "min"), lambda: None, print)
    trial = SimpleNamespace(config={"number": 1})
    follower.on_trial_result(0, [], trial, {"kind": "report", "step": 5, "progress": 10.0, "loss": 3.0})
    assert [each.order for number in (0, 1) for each in records.trials[number].reports] == [0, 1]


def test_a_metric_that_is_not_there_ends_the_search(store: Store) -> None:
    tuning = Tuning(store, metric="validation.lss")
    with pytest.raises(UserError, match="reports no validation"):
        tuning.finish(0, 3.0)
    assert isinstance(tuning.follower.error, UserError)


def test_a_store_that_fails_is_not_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = Tuning(store)
    tuning.report(0, 10, 4.0)

    def refuse(key: str, data: bytes) -> None:
        raise InfraError("no room to write")

    monkeypatch.setattr(store, "write", refuse)
    with pytest.raises(InfraError):
        tuning.follower.on_trial_complete(0, [], tuning.trial(0))
    assert isinstance(tuning.follower.error, InfraError), "Ray Tune would only log it"


def test_ray_tune_may_pickle_it(store: Store) -> None:
    assert type(pickle.loads(pickle.dumps(Tuning(store).follower))) is Callback
