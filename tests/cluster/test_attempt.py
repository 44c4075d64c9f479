"""Publishing is atomic: a process killed at any point leaves the whole artifact or none, and races end well."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity, load_artifact, verify_artifact
from cluster.attempt import LEASE, LEASE_SECONDS, Attempt, collect_garbage, is_alive
from cluster.errors import InfraError, InternalError
from cluster.store import Store
from cluster.store_local import LocalStore

IDENTITY = Identity("Corpus", "corpus", 1, {"a": 1}, {})


def record_of(attempt: Attempt) -> Artifact:
    return Artifact(
        kind=IDENTITY.kind,
        name=IDENTITY.name,
        fingerprint=IDENTITY.fingerprint,
        identity=IDENTITY.fields(),
        attempt=attempt.name,
        files=attempt.seal(),
    )


def publish(store: Store, text: str, replace: Artifact | None = None) -> Artifact:
    with Attempt(store, IDENTITY.id) as attempt:
        attempt.write_text("data.txt", text)
        return attempt.publish(record_of(attempt), replace=replace)


def test_published_files_are_recorded_and_the_lease_is_gone(any_store: Store) -> None:
    artifact = publish(any_store, "hello")
    assert [entry.path for entry in artifact.files] == ["data.txt"]
    assert any_store.read(artifact.key("data.txt")) == b"hello"
    assert sorted(item.key for item in any_store.files()) == [
        artifact.key("data.txt"),
        f"{IDENTITY.id}/artifact.json",
    ]


def test_what_workers_summed_is_checked_by_size_and_not_read_again(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    with Attempt(any_store, IDENTITY.id) as attempt:
        written = {"part": any_store.write_summed(attempt.key("part"), b"of a corpus")}
        attempt.write_text("report.html", "a page")
        with monkeypatch.context() as patch:
            summed = type(any_store).sha256

            def watched(self: Store, key: str) -> tuple[str, int]:
                read.append(key)
                return summed(self, key)

            patch.setattr(type(any_store), "sha256", watched)
            sealed = attempt.seal(written)
        assert read == [attempt.key("report.html")]
        assert sealed == attempt.seal()
        any_store.write(attempt.key("part"), b"cut of")
        with pytest.raises(InternalError, match="a file of 11 bytes was written and has 6"):
            attempt.seal(written)
        any_store.delete(attempt.key("part"))
        with pytest.raises(InternalError, match="a file of 11 bytes was written and is gone"):
            attempt.seal(written)


def test_a_failed_try_leaves_nothing_but_what_resumes(any_store: Store) -> None:
    with pytest.raises(RuntimeError), Attempt(any_store, IDENTITY.id) as attempt:
        attempt.write_text("half.txt", "half")
        any_store.write(attempt.resume_key("step-5"), b"state")
        raise RuntimeError("stage failed")
    assert load_artifact(any_store, IDENTITY.id) is None
    assert [item.key for item in any_store.files()] == [attempt.resume_key("step-5")]
    with Attempt(any_store, IDENTITY.id) as following:
        (earlier,) = following.earlier()
        assert any_store.read(f"{earlier}/resume/step-5") == b"state"
        following.publish(record_of(following))
    assert [item.key for item in any_store.files()] == [f"{IDENTITY.id}/artifact.json"]


def test_a_store_that_fails_while_a_failed_try_is_tidied_does_not_hide_why_it_failed(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: LocalStore, key: str) -> None:
        raise InfraError("the S3 store failed")

    with pytest.raises(InfraError, match="the last checkpoint could not be written"), Attempt(store, IDENTITY.id):
        monkeypatch.setattr(LocalStore, "delete", refuse)
        raise InfraError("the last checkpoint could not be written")
    assert load_artifact(store, IDENTITY.id) is None
    with pytest.raises(InfraError, match="the S3 store failed"), Attempt(store, IDENTITY.id):
        pass
    monkeypatch.undo()
    assert collect_garbage(store, age_s=0, now=time.time() + LEASE_SECONDS + 1) > 0
    assert list(store.files()) == []


def test_earlier_tries_come_newest_first(store: LocalStore) -> None:
    for name in ("20260101T000000-aa", "20260103T000000-bb", "20260102T000000-cc"):
        store.write(f"{IDENTITY.id}/{name}/resume/x", b"")
    store.write(f"{IDENTITY.id}/20260104T000000-dd/data", b"nothing to resume")
    with Attempt(store, IDENTITY.id) as attempt:
        assert [prefix[-2:] for prefix in attempt.earlier()] == ["bb", "cc", "aa"]


def test_the_second_to_publish_takes_the_firsts(any_store: Store) -> None:
    with Attempt(any_store, IDENTITY.id) as slow:
        slow.write_text("data.txt", "slow")
        fast = publish(any_store, "fast")
        assert slow.publish(record_of(slow)) == fast
    artifact = load_artifact(any_store, IDENTITY.id)
    assert artifact == fast
    assert [item.key for item in any_store.files()] == [fast.key("data.txt"), f"{IDENTITY.id}/artifact.json"]


def test_force_replaces_only_the_record_it_saw(any_store: Store) -> None:
    first = publish(any_store, "first")
    second = publish(any_store, "second", replace=first)
    assert load_artifact(any_store, IDENTITY.id) == second
    assert publish(any_store, "late", replace=first) == second
    any_store.delete(f"{IDENTITY.id}/artifact.json")
    third = publish(any_store, "third", replace=second)
    assert load_artifact(any_store, IDENTITY.id) == third


# Every operation that publishing performs on the store, in order: the process dies before the n-th of them.
CRASHING = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, "")
    from cluster import store_local
    from cluster.artifact import Artifact, Identity
    from cluster.attempt import Attempt

    fatal, seen = int(sys.argv[2]), 0
    def dying(function):
        def call(*arguments, **keywords):
            global seen
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)
        return call

    os.link, os.replace, os.fsync = dying(os.link), dying(os.replace), dying(os.fsync)
    Path.unlink = dying(Path.unlink)
    store_local._write_durably = dying(store_local._write_durably)

    identity = Identity("Corpus", "corpus", 1, {"a": 1}, {})
    with Attempt(store_local.LocalStore(Path(sys.argv[1])), identity.id) as attempt:
        for number in range(3):
            attempt.path(f"part-{number}").write_bytes(bytes([number]) * 1000)
        record = Artifact(kind="Corpus", name="corpus", fingerprint=identity.fingerprint, identity=identity.fields(),
                          attempt=attempt.name, files=attempt.seal())
        attempt.publish(record)
    print(seen)
    """
)


def run_crashing(root: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CRASHING, str(root), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_killed_at_each_point_of_publishing(tmp_path: Path) -> None:
    whole = run_crashing(tmp_path / "undisturbed", 0)
    operations = int(whole.stdout)
    assert operations > 5
    outcomes = set()
    for fatal in range(1, operations + 1):
        store = LocalStore(tmp_path / f"killed-{fatal}")
        assert run_crashing(Path(store.url), fatal).returncode == -9
        artifact = load_artifact(store, IDENTITY.id)
        outcomes.add(artifact is not None)
        if artifact is not None:
            assert len(artifact.files) == 3
            assert verify_artifact(store, artifact) == []
        publish(store, "again")
        final = load_artifact(store, IDENTITY.id)
        assert final is not None
        assert artifact is None or final == artifact
        assert verify_artifact(store, final) == []
    assert outcomes == {True, False}  # some deaths came before the record and some after it


@pytest.mark.parametrize("moment", ["before", "after"])
def test_interrupted_while_publishing(store: LocalStore, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Ctrl-C around the one write that publishes: the artifact is whole, or not there and nothing is left."""
    put = LocalStore.put_if_absent

    def interrupted(self: LocalStore, key: str, data: bytes) -> bool:
        if moment == "after":
            put(self, key, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalStore, "put_if_absent", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(store, "hello")
    artifact = load_artifact(store, IDENTITY.id)
    if moment == "after":
        assert artifact is not None
        assert verify_artifact(store, artifact) == []
    else:
        assert list(store.files()) == []


def test_a_fresh_try_continues_from_nothing(store: LocalStore) -> None:
    store.write(f"{IDENTITY.id}/20260101T000000-aa/resume/x", b"")
    with Attempt(store, IDENTITY.id, fresh=True) as attempt:
        assert attempt.earlier() == []
        attempt.publish(record_of(attempt))
    assert [item.key for item in store.files()] == [f"{IDENTITY.id}/artifact.json"]


def test_racing_processes_agree(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    processes = [subprocess.Popen([sys.executable, "-c", CRASHING, store.url, "0"]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    artifact = load_artifact(store, IDENTITY.id)
    assert artifact is not None
    assert verify_artifact(store, artifact) == []
    assert store.folders(IDENTITY.id) == [artifact.attempt]


def test_lease_lives_while_the_try_does(store: LocalStore) -> None:
    with Attempt(store, IDENTITY.id) as attempt:
        assert is_alive(store, attempt.prefix)
        assert not is_alive(store, attempt.prefix, now=time.time() + LEASE_SECONDS + 1)
    assert not is_alive(store, attempt.prefix)


def test_lease_of_a_killed_process_counts_no_more(store: LocalStore) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cluster.attempt import Attempt\n"
        "from cluster.store_local import LocalStore\n"
        f"with Attempt(LocalStore(Path(sys.argv[1])), {IDENTITY.id!r}) as attempt:\n"
        "    attempt.store.write(attempt.resume_key('step'), b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, store.url], check=False).returncode == -9
    with Attempt(store, IDENTITY.id) as attempt:
        (earlier,) = attempt.earlier()
        assert store.exists(f"{earlier}/{LEASE}")
        assert not is_alive(store, earlier)
        attempt.publish(record_of(attempt))
    assert list(store.files(f"{earlier}/")) == []


def test_garbage_is_only_what_is_unnamed_dead_and_old(store: LocalStore) -> None:
    kept = publish(store, "kept")
    store.write(f"{IDENTITY.id}/old-dead/part", b"12345")
    store.write(f"{IDENTITY.id}/old-alive/part", b"1")
    late = time.time() + 25 * 3600
    store.write(f"{IDENTITY.id}/old-alive/lease.json", json.dumps({"expires": late + 60}).encode())
    assert collect_garbage(store) == 0  # nothing is a day old yet
    removed: list[str] = []
    assert collect_garbage(store, now=late, dry_run=True) == 5
    assert store.exists(f"{IDENTITY.id}/old-dead/part")
    assert collect_garbage(store, now=late, on_remove=lambda prefix, size: removed.append(prefix)) == 5
    assert removed == [f"{IDENTITY.id}/old-dead"]
    assert store.folders(IDENTITY.id) == sorted([kept.attempt, "old-alive"])
    assert verify_artifact(store, kept) == []
