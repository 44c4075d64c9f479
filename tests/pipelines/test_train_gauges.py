"""A run's newest figures in Prometheus: what is handed to Ray, and on a real Ray what its exporter says meanwhile."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

from cluster.store import Store
from pipelines.train.config import TrainConfig
from pipelines.train.gauges import GAUGES, Gauges
from pipelines.train.group import Group
from pipelines.train.keeper import Keeper
from pipelines.train.loop import train
from tests.pipelines.rank_pool import FixedSamples, tiny
from tests.pipelines.train_driver import GENTLE, LIMIT_S, Uninterrupted, driver, session_of, wait_until

SAMPLE = re.compile(r'ray_raymill_train_(\w+)\{[^}]*run="pretrain"[^}]*\} (\S+)')


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


@pytest.mark.ray
@pytest.mark.slow  # Ray hands figures to its exporter every ten seconds
@pytest.mark.timeout(2 * LIMIT_S)
def test_rays_exporter_has_them_while_training_runs(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    log = tmp_path / "log"
    config = GENTLE | {"steps": 100_000, "checkpoint_every_steps": 1000, "validation_every_steps": 50}
    seen: dict[str, set[float]] = {}

    def complete() -> bool:
        for page in exported(process):
            for name, value in SAMPLE.findall(page):
                seen.setdefault(name, set()).add(float(value))
        return len(seen.get("step", ())) > 1

    with driver(uninterrupted.fresh_store(tmp_path / "store"), uninterrupted.inputs, config, log) as process:
        wait_until(complete, process, log)
    assert seen.keys() == {*GAUGES, "step", "validation_loss"}
    assert all(1.0 < loss < 7.0 for loss in seen["loss"] | seen["validation_loss"])
    assert min(seen["tokens_per_second"]) > 0 and min(seen["memory_bytes"]) > 1e6 and 0 < min(seen["mfu"]) < 1


def exported(driver: psutil.Popen) -> Iterator[str]:
    """What the exporters of a driver's own Ray say."""
    for each in psutil.process_iter(["pid", "cmdline"]):
        if session_of(each.pid) != driver.pid or "agent" not in " ".join(each.info["cmdline"] or []).lower():
            continue
        try:
            ports = {found.laddr.port for found in each.net_connections("tcp") if found.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
        for port in ports:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    yield answer.read().decode()
            except (OSError, ValueError):  # a port for something else
                continue
