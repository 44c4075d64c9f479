"""A run's newest figures in Prometheus: what is handed to Ray."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from cluster.store import Store
from pipelines.train.config import TrainConfig
from pipelines.train.gauges import GAUGES, Gauges
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train
from tests.pipelines.rank_pool import FixedSamples, tiny


class Gauge:
    """Ray's, as far as it is used; it remembers what it was given."""

    made: ClassVar[dict[str, Gauge]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description and tag_keys == ("run",)
        self.values: list[float] = []
        self.made[name] = self

    def set_default_tags(self, tags: dict[str, str]) -> None:
        self.tags = tags

    def set(self, value: float) -> None:
        self.values.append(value)


def test_every_steps_figures_are_handed_to_ray(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(Gauge, "made", {})
    gauges = Gauges("pretrain")
    records: list[dict[str, Any]] = []

    def show(record: Any) -> None:
        records.append(dict(record))
        gauges.show(record)

    config = TrainConfig(batch_sequences=4, workers=1, validation_every_steps=2)
    from pipelines.train.journal import Journal

    keeper = Keeper(store, "checkpoints", (), Group(), Journal(store, "journal"), 2, show)
    train(tiny("llama", layers=1), FixedSamples(8, 1), FixedSamples(8, 2), 4, config, Group(), keeper, "here")
    taken = [each for each in records if each["kind"] == "train"]
    assert len(taken) == 4
    for name in (*GAUGES, "step"):
        assert Gauge.made[f"raymill_train_{name}"].values == [each[name] for each in taken]
    measured = [each["loss"] for each in records if each["kind"] == "validation"]
    assert Gauge.made["raymill_train_validation_loss"].values == measured and len(measured) == 3
    assert {each.tags["run"] for each in Gauge.made.values()} == {"pretrain"}
