"""Marked processes are found and ended, also those that hide their mark; nobody else's ever is."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import reaper
from cluster.reaper import Process
from tests.cluster.families import wait_for

OVERWRITES = """
import sys, time
with open("/proc/self/stat", "rb") as stat:
    fields = stat.read().rpartition(b")")[2].split()
begin, end = int(fields[47]), int(fields[48])
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(begin)
    memory.write(bytes(end - begin))
print("done", flush=True)
time.sleep(1000)
"""
"""A program that writes zeros over its own environment, as one that sets a title may."""

TITLED = (
    "import setproctitle, time; setproctitle.setproctitle('ray::Agent'); print('done', flush=True); time.sleep(1000)"
)

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(1000)
"""
"""A program with another below it; it prints the other's id when that has done what it does first."""

STARTS_OTHER = f"""
import os, subprocess, sys, time
mark, *words = sys.argv[1:]
child = subprocess.Popen(
    [sys.executable, "-c", *words], env=os.environ | {{{reaper.MARK!r}: mark}}, stdout=subprocess.PIPE, text=True
)
print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(1000)
"""
"""A program with another below it that carries another mark."""

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def mark() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a program, and gives it and the line that it prints when it is ready."""
    started: list[subprocess.Popen[str]] = []

    def go(*words: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", *words], env=os.environ | environment, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield go
    for process in started:
        process.kill()
        process.communicate()


def process_of(pid: int) -> Process:
    (found,) = [process for process in everybody() if process.pid == pid]
    return found


def everybody() -> set[Process]:
    return {status.process for status in reaper._everybody()}


def test_what_writes_over_its_environment_is_found_by_its_parent(start: Start, mark: str) -> None:
    parent, said = start(PARENT, OVERWRITES, **{reaper.MARK: mark})
    hidden = process_of(int(said))
    try:
        assert reaper.marked_processes(mark) == [parent.pid]
        assert reaper.family(mark) == {process_of(parent.pid), hidden}
    finally:
        reaper.end_marked(mark, grace_s=0)
    assert not reaper.runs(hidden)
    assert parent.wait() == -9


def test_an_orphan_without_a_mark_is_ended_where_it_was_known(start: Start, mark: str) -> None:
    parent, said = start(PARENT, OVERWRITES, **{reaper.MARK: mark})
    known = reaper.family(mark)
    hidden = process_of(int(said))
    parent.kill()
    parent.wait()
    assert reaper.family(mark) == set()  # nothing shows whose it is any more
    assert reaper.family(mark, known) == {hidden}
    reaper.end_marked(mark, grace_s=0, known=known)
    assert not reaper.runs(hidden)


def test_who_waits_remembers_what_became_an_orphan(monkeypatch: pytest.MonkeyPatch, start: Start, mark: str) -> None:
    seen = threading.Event()
    look = reaper.family

    def look_and_tell(mark: str, known: set[Process]) -> set[Process]:
        found = look(mark, known)
        if len(found) == 2:
            seen.set()
        return found

    monkeypatch.setattr(reaper, "family", look_and_tell)
    monkeypatch.setattr(reaper, "LOOK_S", 0.01)
    reading, writing = os.pipe()
    known: list[Process] = []
    waiting = threading.Thread(target=lambda: known.extend(reaper.watch(mark, reading)))
    waiting.start()
    try:
        parent, said = start(PARENT, OVERWRITES, **{reaper.MARK: mark})
        hidden = process_of(int(said))
        os.write(writing, b"not yet\n")
        assert seen.wait(60)
        parent.kill()
        parent.wait()
    finally:
        os.close(writing)
        waiting.join()
        os.close(reading)
    assert hidden in known
    reaper.end_marked(mark, grace_s=0, known=known)
    assert not reaper.runs(hidden)


def test_a_title_spares_the_mark(start: Start, mark: str) -> None:
    """Ray's titles and vLLM's are written by the same few lines of C as those of the package."""
    pytest.importorskip("setproctitle")
    kept = {reaper.MARK: mark, **reaper.KEEP_ENVIRONMENT}
    titled, _ = start(TITLED, **kept)
    assert (reaper.PROCESSES / str(titled.pid) / "cmdline").read_bytes().startswith(b"ray::Agent\0")
    hidden, _ = start(TITLED, **{reaper.MARK: mark})
    assert reaper.marked_processes(mark) == [titled.pid]
    reaper.end_marked(mark, grace_s=0)
    assert titled.wait() == -9
    assert hidden.poll() is None


def test_another_process_of_the_same_id_is_not_taken_for_one_that_was_known(start: Start, mark: str) -> None:
    process = process_of(start("import time; print(flush=True); time.sleep(1000)")[0].pid)
    earlier = process._replace(started=process.started - 1)
    assert reaper.family(mark, {earlier}) == set()
    assert not reaper.runs(earlier)
    reaper.end_marked(mark, grace_s=0, known={earlier})
    assert reaper._kill(earlier)
    assert reaper.runs(process)
    reaper.end_marked(mark, grace_s=0, known={process})
    assert not reaper.runs(process)


def test_what_carries_another_mark_is_left_alone_with_all_below_it(start: Start, mark: str) -> None:
    """A cluster that a job started outlives the job's Ray; so does another session's guard."""
    other = secrets.token_hex(8)
    parent, said = start(STARTS_OTHER, other, PARENT, OVERWRITES, **{reaper.MARK: mark})
    apart, hidden = (process_of(int(pid)) for pid in said.split())
    try:
        assert reaper.family(mark) == {process_of(parent.pid)}
        assert reaper.family(mark, {apart}) == {process_of(parent.pid)}  # as if seen before it became what it is
        assert reaper.family(other) == {apart, hidden}
        reaper.end_marked(mark, grace_s=0, known={apart})
        assert parent.wait() == -9
        assert reaper.runs(apart)
        assert reaper.runs(hidden)
    finally:
        reaper.end_marked(other, grace_s=0, known={apart, hidden})
    assert not reaper.runs(apart)


def test_a_guard_is_nobodys_to_end_but_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mark: str) -> None:
    monkeypatch.setenv(reaper.MARK, mark)
    folder = tmp_path / "session"
    folder.mkdir()
    guard = reaper.start(mark, folder)
    try:
        wait_for(lambda: reaper.marked_processes(reaper.GUARD + mark) == [guard.pid], "the guard")
        assert reaper.family(mark, {process_of(guard.pid)}) == set()
        assert folder.exists()
    finally:
        guard.communicate()
    assert guard.returncode == 0
    assert not folder.exists()
