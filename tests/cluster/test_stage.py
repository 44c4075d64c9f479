"""A stage runs once for each identity, and a failure publishes nothing."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest

from cluster import stage as stage_module
from cluster.artifact import Artifact, load_artifact
from cluster.config import StrictModel, execution
from cluster.errors import InternalError
from cluster.progress import Progress, Tracker
from cluster.stage import Outcome, Paused, Result, Stage, StageContext, execute, identify
from cluster.store import Store


class Settings(StrictModel):
    text: str = "hello"
    workers: int = execution(1)


STAGE = Stage("write", "Corpus", 1, "entries:run")
CALLS: list[str] = []


def run(config: Settings, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    CALLS.append(config.text)
    context.output.write_text("text.txt", config.text)
    if config.text == "fail":
        raise ValueError("the stage failed")
    if config.text == "nan":
        return Outcome(metrics={"bad.metric": float("nan"), "good": 1.0})
    return Outcome(counts={"characters": len(config.text)}, licences={"MIT": 1}, metrics={"a.b": 0.5})


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    table: dict[str, Any] = {"entries:run": run, "entries:resolve": lambda config: {"resolved": "cpu"}}
    monkeypatch.setattr(stage_module, "load_entry", table.__getitem__)


def do(store: Store, config: Settings, stage: Stage = STAGE, **options: bool) -> Result:
    tracker = Tracker(Progress(io.StringIO()), "write")
    return execute(stage, identify(stage, config, {}), config, {}, store, tracker, **options)


def test_second_run_reuses_the_first(any_store: Store) -> None:
    first = do(any_store, Settings(text="x"))
    second = do(any_store, Settings(text="x", workers=8))
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact == second.artifact
    assert CALLS == ["x"]
    assert first.artifact.counts == {"characters": 1}
    assert first.artifact.provenance["versions"]["ray"]


def test_another_result_is_another_artifact(any_store: Store) -> None:
    ids = {
        do(any_store, Settings(text="x")).artifact.id,
        do(any_store, Settings(text="y")).artifact.id,
        do(any_store, Settings(text="x"), Stage("write", "Corpus", 2, "entries:run")).artifact.id,
        do(any_store, Settings(text="x"), Stage("write", "Corpus", 1, "entries:run", "entries:resolve")).artifact.id,
    }
    assert len(ids) == 4


def test_force_makes_it_anew_and_replaces_the_record(any_store: Store) -> None:
    first = do(any_store, Settings())
    second = do(any_store, Settings(), force=True)
    assert CALLS == ["hello", "hello"]
    assert first.artifact.attempt != second.artifact.attempt
    assert load_artifact(any_store, first.artifact.id) == second.artifact


def test_a_failing_stage_publishes_nothing_and_can_be_repeated(any_store: Store) -> None:
    with pytest.raises(ValueError, match="the stage failed"):
        do(any_store, Settings(text="fail"))
    assert list(any_store.files()) == []
    with pytest.raises(ValueError, match="the stage failed"):
        do(any_store, Settings(text="fail"))


def test_a_metric_that_is_no_number_publishes_nothing(any_store: Store) -> None:
    with pytest.raises(InternalError, match=r"bad\.metric is not a finite number"):
        do(any_store, Settings(text="nan"))
    assert list(any_store.files()) == []


def test_a_stage_that_is_to_pause_does_so_although_it_is_published(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left is there for the next try, and what was published stays as it is."""
    first = do(store, Settings(text="x"))

    def pause(config: Settings, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
        store.write(context.output.resume_key("checkpoint"), str(context.until).encode())
        context.output.write_text("text.txt", "half")
        raise Paused(3, 1.5)

    monkeypatch.setattr(stage_module, "load_entry", lambda entry: pause)
    tracker = Tracker(Progress(io.StringIO()), "write")
    identity = identify(STAGE, Settings(text="x"), {})
    with pytest.raises(Paused) as caught:
        execute(STAGE, identity, Settings(text="x"), {}, store, tracker, until=0.5)
    assert (caught.value.step, caught.value.loss) == (3, 1.5)
    assert load_artifact(store, identity.id) == first.artifact
    (left,) = [item.key for item in store.files(f"{identity.id}/") if "resume" in item.key]
    assert store.read(left) == b"0.5"
    assert not any(item.key.endswith(f"{left.split('/')[2]}/text.txt") for item in store.files(f"{identity.id}/"))
