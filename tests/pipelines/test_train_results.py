from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InternalError
from pipelines.train.launch import Training
from pipelines.train.results import training_outcome

SUMMARY: dict[str, Any] = {
    "parameters": 10,
    "trained_parameters": 4,
    "steps": 2,
    "training_sequences": 8,
    "validation_sequences": 3,
    "tokens_per_second": 5.0,
}


def training(*losses: float) -> Training:
    records: list[dict[str, Any]] = [{"kind": "train", "step": n, "loss": 3.0, "tokens": 7} for n in (1, 2)]
    records += [{"kind": "validation", "step": step, "loss": loss} for step, loss in enumerate(losses)]
    return Training("finetune", SUMMARY | {"validation_loss": losses[-1]}, records)


def test_a_runs_figures() -> None:
    outcome = training_outcome(training(4.0, 3.5, 2.0))
    assert outcome.metrics["validation.perplexity"] == pytest.approx(math.exp(2))
    assert outcome.metrics["train.loss"] == 3.0
    assert outcome.counts["tokens"] == 14


@pytest.mark.parametrize("losses", [(4.0, 3.0, math.nan), (math.inf, 3.0, 2.0)])
def test_a_validation_loss_that_is_no_number_is_an_error_whatever_is_trained(losses: tuple[float, ...]) -> None:
    with pytest.raises(InternalError, match=r"finetune: the validation loss at step \d is (nan|inf), not a number"):
        training_outcome(training(*losses))


def test_the_page_and_the_events_hold_the_curves(tmp_path: Path) -> None:
    from cluster.attempt import Attempt
    from cluster.store import open_store
    from pipelines.train.results import write_metrics, write_report

    figures = {"learning_rate": 0.1, "gradient_norm": 1.0, "tokens_per_second": 5.0, "mfu": 0.4, "memory_bytes": 9}
    run = training(4.0, 3.5)
    records = [each | figures if each["kind"] == "train" else each for each in run.records]
    records.append({"kind": "event", "step": 2, "text": "the loss jumped"})
    summary = run.summary | {"start_seconds": {"import": 1.5}}
    page = write_report(Training("pretrain", summary, records), "Pretraining", "a model", {}).render()
    for text in ("learning rate", "MFU", "the loss jumped", "import"):
        assert text in page
    with Attempt(open_store(tmp_path), "Model/x-1") as attempt:
        write_metrics(Training("pretrain", summary, records, tensorboard=True), attempt)
        names = [entry.path for entry in attempt.seal()]
        (events,) = [name for name in names if name.startswith("tensorboard/")]
        assert "tfevents" in events
        found = scalars(attempt.path(events).read_bytes())
        lines = attempt.path("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    train = {"loss": 3.0, **figures}
    expected = {(f"train/{name}", step): pytest.approx(value) for name, value in train.items() for step in (1, 2)}
    assert found == expected | {("validation/loss", 0): 4.0, ("validation/loss", 1): 3.5}


def scalars(data: bytes) -> dict[tuple[str, int], float]:
    """(curve, step) -> value, as TensorBoard reads an event file: records of length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, place = {}, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = Event.FromString(data[place + 12 : place + 12 + length])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
        place += 12 + length + 4
    return found
