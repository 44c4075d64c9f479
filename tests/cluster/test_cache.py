"""Copies on a machine: made once by many processes, never half, removed when there are too many, kept while in use."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import cache
from cluster.artifact import Artifact, Identity, local_copy
from cluster.attempt import Attempt
from cluster.errors import UserError
from cluster.store_local import LocalStore

FILES = 3
FILE_BYTES = 1000
COPY_BYTES = FILES * FILE_BYTES
PROCESS = """
import itertools, sys, time
from pathlib import Path
from cluster.artifact import load_artifact, local_copy
from cluster.store_local import LocalStore
LocalStore.local_path = lambda self, key: None
place, artifact, folder, log, stop_after = sys.argv[1:]
bring, number = LocalStore.download, itertools.count()
def download(self, key, target):
    mine = next(number)
    if mine == int(stop_after):
        print("stopped", flush=True)
    if mine >= int(stop_after) >= 0:
        time.sleep(600)
    bring(self, key, target)
    with open(log, "a") as file:
        file.write(key + "\\n")
LocalStore.download = download
store = LocalStore(Path(place))
print(local_copy(store, load_artifact(store, artifact), Path(folder)), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def remote(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store that says its files have no path here."""
    monkeypatch.setattr(LocalStore, "local_path", lambda self, key: None)
    return store


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    """No test leaves this process holding copies."""
    yield
    let_go()


def let_go() -> None:
    """As if the process that asked for copies had ended."""
    for descriptor in cache._held.values():
        os.close(descriptor)
    cache._held.clear()


def publish(store: LocalStore, name: str) -> Artifact:
    identity = Identity("Model", name, 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        for number in range(FILES):
            store.write(attempt.key(f"part-{number}"), f"{name} {number}".encode().ljust(FILE_BYTES))
        record = Artifact(
            kind="Model",
            name=name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


@contextmanager
def asking(
    store: LocalStore, artifact: Artifact, place: Path, *, stop_after: int = -1
) -> Iterator[subprocess.Popen[str]]:
    """A process that asks for the copy and then lives on; it prints the folder, or that it stopped before a file."""
    log = str(place.parent / "log")
    command = [sys.executable, "-c", PROCESS, store.url, artifact.id, str(place), log, str(stop_after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def there(place: Path) -> set[str]:
    """Names of the artifacts that have a whole copy."""
    return {path.parent.parent.name.rpartition("-")[0] for path in place.glob("Model/*/*/.complete")}


def test_one_makes_a_copy_while_another_waits(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks of two threads exclude each other as those of two processes do: each opens the file anew."""
    artifact, place = publish(remote, "a"), tmp_path / "cache"
    bring, lock = LocalStore.download, fcntl.flock
    brought: list[str] = []
    begun, asked, goes_on = threading.Event(), threading.Event(), threading.Event()

    def download(store: LocalStore, key: str, target: Path) -> None:
        brought.append(key)
        begun.set()
        assert goes_on.wait(60)
        bring(store, key, target)

    def flock(file: Any, how: int) -> None:
        if begun.is_set():
            asked.set()
        lock(file, how)

    monkeypatch.setattr(LocalStore, "download", download)
    monkeypatch.setattr("cluster.cache.fcntl.flock", flock)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(local_copy, remote, artifact, place)
        assert begun.wait(60)
        second = pool.submit(local_copy, remote, artifact, place)
        assert asked.wait(60)
        wait([second], timeout=0.3)  # a second one that did not wait would now bring files as well
        goes_on.set()
        assert first.result() == second.result() == place / artifact.data_prefix
    assert sorted(brought) == sorted(artifact.key(entry.path) for entry in artifact.files)
    for entry in artifact.files:
        assert (place / artifact.data_prefix / entry.path).read_bytes() == remote.read(artifact.key(entry.path))


def test_a_copy_that_a_killed_process_began_is_finished(store: LocalStore, tmp_path: Path) -> None:
    artifact, place = publish(store, "a"), tmp_path / "cache"
    with asking(store, artifact, place, stop_after=1) as process:
        assert line_of(process) == "stopped"
        assert there(place) == set()
        process.kill()
        process.wait()
    with asking(store, artifact, place) as process:
        assert line_of(process) == str(place / artifact.data_prefix)
    brought = (tmp_path / "log").read_text().split()
    assert set(brought) == {artifact.key(entry.path) for entry in artifact.files}
    assert there(place) == {"a"}


def test_the_least_recently_asked_for_goes_first(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_CACHE_BYTES", str(2 * COPY_BYTES))
    a, b, c = (publish(remote, name) for name in "abc")
    for number, artifact in enumerate((a, b, a)):
        folder = local_copy(remote, artifact, tmp_path)
        os.utime(folder / ".complete", (number, number))
    let_go()
    local_copy(remote, c, tmp_path)
    assert there(tmp_path) == {"a", "c"}
    let_go()
    monkeypatch.setenv("RAYMILL_CACHE_BYTES", "1")  # what is asked for is made all the same
    local_copy(remote, b, tmp_path)
    assert there(tmp_path) == {"b"}
    assert [path.name for path in (tmp_path / ".locks").glob("gone-*")] == []


def test_a_copy_that_a_process_works_with_stays_until_that_is_gone(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_CACHE_BYTES", str(COPY_BYTES))
    a, b, c = (publish(store, name) for name in "abc")
    place = tmp_path / "cache"
    with asking(store, a, place) as first:
        line_of(first)
        with asking(store, b, place) as second:
            line_of(second)
        assert there(place) == {"a", "b"}
        first.kill()
        first.wait()
        second.wait()
    monkeypatch.setattr(LocalStore, "local_path", lambda self, key: None)
    local_copy(store, c, place)
    assert there(place) == {"c"}


def test_what_was_never_finished_goes_before_what_is_whole(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYMILL_CACHE_BYTES", str(2 * COPY_BYTES))
    a, b = publish(remote, "a"), publish(remote, "b")
    local_copy(remote, a, tmp_path)
    let_go()
    half = tmp_path / "Model" / "half-000000000000" / "try"
    half.mkdir(parents=True)
    (half / "part-0").write_bytes(bytes(FILE_BYTES))
    local_copy(remote, b, tmp_path)
    assert there(tmp_path) == {"a", "b"}
    assert not half.exists()


def test_no_more_than_the_disk_has_room_for(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = publish(remote, "a"), publish(remote, "b")
    local_copy(remote, a, tmp_path)
    let_go()
    usage = type("usage", (), {"total": 10**12, "free": COPY_BYTES - 1})
    monkeypatch.setattr("cluster.cache.shutil.disk_usage", lambda _: usage)
    local_copy(remote, b, tmp_path)
    assert there(tmp_path) == {"b"}


def test_a_cache_in_an_image_is_used_as_it_is(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(remote, "a")
    folder = local_copy(remote, artifact, tmp_path)
    before = (folder / ".complete").stat().st_mtime_ns
    monkeypatch.setattr("cluster.cache.os.access", lambda *_: False)
    assert local_copy(remote, artifact, tmp_path) == folder
    assert (folder / ".complete").stat().st_mtime_ns == before


def test_copies_of_older_versions_are_known(remote: LocalStore, tmp_path: Path) -> None:
    artifact = publish(remote, "a")
    folder = local_copy(remote, artifact, tmp_path)
    (folder / ".complete").write_text("")
    assert [(each.prefix, each.size_bytes >= COPY_BYTES) for each in cache._copies(tmp_path)] == [
        (artifact.data_prefix, True)
    ]


def test_a_limit_that_is_no_number_and_a_cache_that_is_no_folder(
    remote: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(remote, "a")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        local_copy(remote, artifact, tmp_path / "file" / "cache")
    for text in ("much", "nan", "inf"):
        monkeypatch.setenv("RAYMILL_CACHE_BYTES", text)
        with pytest.raises(UserError, match="not a number of bytes"):
            local_copy(remote, artifact, tmp_path / "cache")
