"""What a run on a real Ray loses when a process is killed: nothing, whichever it is and at whatever step."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pipelines.train_driver import (
    GENTLE,
    LIMIT_S,
    STEPS,
    Uninterrupted,
    artifact_of,
    driver,
    end_well,
    list_models,
    records,
    session_of,
    starts,
    wait_for_restart,
    wait_for_step,
    workers_of,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]

LAST = STEPS - 80
"""The last step that something happens at: the driver must not have ended before the test sees it."""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rank_and_a_driver_killed_at_random_steps_change_no_bit(
    uninterrupted: Uninterrupted, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    of_rank, of_driver = (draw.randrange(1, LAST) for _ in range(2))
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "first.log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_for_step(process, store, of_rank, log)
        victims = workers_of(process)
        assert len(victims) == 2
        draw.choice(victims).kill()
        wait_for_restart(process, store, log)
        wait_for_step(process, store, of_driver, log)
        process.kill()
        process.wait(timeout=60)
    assert list_models(store) == []
    with driver(store, uninterrupted.inputs, GENTLE, tmp_path / "second.log") as process:
        end_well(process, tmp_path / "second.log")
    uninterrupted.assert_same(store)


LAYOUTS: list[tuple[int, dict[str, Any]]] = [
    (4, {"workers": 1}),
    (5, {"workers": 3}),
    (6, {"parallel": {"shard": 2}}),
    (7, {"parallel": {"pipeline": 2}}),
]


@pytest.mark.parametrize(("seed", "layout"), LAYOUTS)
def test_a_killed_run_goes_on_under_another_layout(
    uninterrupted: Uninterrupted, tmp_path: Path, seed: int, layout: dict[str, Any]
) -> None:
    """The losses stay within 1e-5."""
    step = random.Random(seed).randrange(3 * GENTLE["checkpoint_every_steps"], LAST)
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "first.log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_for_step(process, store, step, log)
        process.kill()
        process.wait(timeout=60)
    with driver(store, uninterrupted.inputs, GENTLE | layout, tmp_path / "second.log") as process:
        end_well(process, tmp_path / "second.log")
    artifact = artifact_of(store)
    assert artifact.id == uninterrupted.artifact.id
    assert [each["workers"] for each in starts(store, artifact)] == [2, layout.get("workers", 2)]
    for kind in ("train", "validation"):
        expected = records(uninterrupted.inputs.store, uninterrupted.artifact, kind)
        assert records(store, artifact, kind) == pytest.approx(expected, abs=1e-5)


def test_an_interrupted_run_leaves_no_process_and_goes_on(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    store, log = uninterrupted.fresh_store(tmp_path / "store"), tmp_path / "first.log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_for_step(process, store, 100, log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT_S) == 130
        assert log.read_text().rstrip().endswith("interrupted; repeat the command to continue")
        left = [each for each in psutil.process_iter(["pid"]) if session_of(each.pid) == process.pid]
        psutil.wait_procs(left, timeout=60)
        assert [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    with driver(store, uninterrupted.inputs, GENTLE, tmp_path / "second.log") as process:
        assert "continues at step" in end_well(process, tmp_path / "second.log")
    uninterrupted.assert_same(store)
