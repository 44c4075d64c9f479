"""What a run does when its store's disk is full, for a while or for good: nothing is lost, and the user is told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.artifact import verify_artifact
from cluster.store import Store, open_store
from tests.pipelines.train_driver import (
    GENTLE,
    LIMIT_S,
    Uninterrupted,
    copy_inputs,
    driver,
    end_well,
    list_models,
    wait_for_step,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]

MOUNT = 'mount -t tmpfs -o size=32m tmpfs "$0" && echo ready && read -r'


class SmallDisk:
    """A disk of 32 MiB that only the processes started ``within`` see at its place; others at ``seen``.

    Attributes:
        store: where the driver's store is.
        within: what to put before a command.
        filler: a file that takes all the room that is left.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._holder = psutil.Popen(
            ["unshare", "--mount", "bash", "-c", MOUNT, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ready = self._holder.stdout.readline() == "ready\n"
        pid = self._holder.pid
        self.within = ["nsenter", f"--mount=/proc/{pid}/ns/mnt"]
        self.store = open_store(folder / "store")
        self.seen = Path(f"/proc/{pid}/root{folder}")
        self.filler = self.seen / "filler"

    def fill(self) -> None:
        with self.filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def unfinished_checkpoints(self) -> list[str]:
        """Names of those that a process began to write and that do not count."""
        folders = self.seen.glob("store/Model/*/*/resume/train/checkpoints/step-*")
        return [each.name for each in folders if not (each / "complete.json").exists()]

    def close(self) -> None:
        self._holder.stdin.close()
        self._holder.wait(timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path / "disk")
    try:
        if not made.ready:
            pytest.skip("this user may not mount a small disk of its own")
        yield made
    finally:
        made.close()


def store_on(disk: SmallDisk, uninterrupted: Uninterrupted) -> Store:
    """The driver's store as this process sees it, with the inputs."""
    store = open_store(disk.seen / "store")
    copy_inputs(uninterrupted.inputs, store)
    return store


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_only(
    disk: SmallDisk, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    store, log = store_on(disk, uninterrupted), tmp_path / "log"
    config = GENTLE | {"checkpoint_every_steps": 80}
    with driver(disk.store, uninterrupted.inputs, config, log, within=disk.within) as process:
        wait_for_step(process, store, 5, log)
        disk.fill()
        # The second is begun when the first has failed.
        wait_until(lambda: len(disk.unfinished_checkpoints()) > 1, process, log)
        disk.filler.unlink()
        said = end_well(process, log)
    assert "could not be written" in said
    assert "No space left on device; training goes on" in said
    uninterrupted.assert_same(store)


def test_a_disk_that_stays_full_ends_the_run_and_the_next_one_finishes_it(
    disk: SmallDisk, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    store, log = store_on(disk, uninterrupted), tmp_path / "first.log"
    with driver(disk.store, uninterrupted.inputs, GENTLE, log, within=disk.within) as process:
        wait_for_step(process, store, 45, log)
        disk.fill()
        assert process.wait(timeout=LIMIT_S) == 3, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert "checkpoint" in said.partition("error: ")[2] and "No space left on device" in said
    assert "free space or restore the store, then repeat the command" in said
    assert list_models(store) == []
    for artifact in (uninterrupted.inputs.tokens, uninterrupted.inputs.tokenizer):
        assert verify_artifact(store, artifact) == []
    disk.filler.unlink()
    with driver(disk.store, uninterrupted.inputs, GENTLE, tmp_path / "second.log", within=disk.within) as process:
        assert "continues at step" in end_well(process, tmp_path / "second.log")
    uninterrupted.assert_same(store)
