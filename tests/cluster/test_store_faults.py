"""What an S3 store promises while connections are reset, answers are lost, late, cut off or refused."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import tests.fault_proxy
from cluster.artifact import Artifact, Identity, list_artifacts, load_artifact, verify_artifact
from cluster.attempt import Attempt
from cluster.errors import InfraError
from cluster.store import Store, open_store
from tests.fault_proxy import ORDINARY, Fault, FaultProxy, first, seeded

PARTS = 9 << 20
"""Bytes of an object that goes up and comes down in two parts."""

SLOW = dict.fromkeys((Fault.BUSY, Fault.SLOW, Fault.RESET), pytest.mark.slow)
"""What the random operations meet as well."""


@pytest.fixture
def proxy(s3_store: Store, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between the stores that are opened from now on and the server; nothing waits for long."""
    monkeypatch.setattr("cluster.s3_client.BASE_SECONDS", 0.001)
    monkeypatch.setattr(tests.fault_proxy, "SLOW_SECONDS", 0.02)
    with FaultProxy(s3_endpoint).running() as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


@pytest.fixture
def harmed(proxy: FaultProxy, s3_store: Store) -> Store:
    """The same store as ``s3_store``, through the proxy."""
    return open_store(s3_store.url)


@pytest.mark.parametrize("fault", [pytest.param(each, id=each.name, marks=SLOW.get(each, ())) for each in ORDINARY])
def test_every_operation_survives_two_faults_in_a_row(
    fault: Fault, proxy: FaultProxy, harmed: Store, s3_store: Store, tmp_path: Path
) -> None:
    proxy.plan = seeded(1, share=1.0, faults=(fault,))
    data = os.urandom(PARTS)
    (tmp_path / "in").write_bytes(data)
    harmed.write("a/b", b"one")
    assert s3_store.read("a/b") == harmed.read("a/b") == b"one"
    assert harmed.exists("a/b") and not harmed.exists("a/none")
    assert harmed.put_if_absent("k", b"first") and not harmed.put_if_absent("k", b"first")
    assert harmed.put_if_match("k", b"second", b"first") and not harmed.put_if_match("k", b"third", b"first")
    harmed.upload(tmp_path / "in", "m/big")
    assert s3_store.read("m/big") == data
    assert b"".join(harmed.stream("m/big")) == data
    harmed.copy("m/big", "m/again")
    harmed.download_all("m", tmp_path / "out")
    assert (tmp_path / "out/big").read_bytes() == (tmp_path / "out/again").read_bytes() == data
    assert [item.key for item in harmed.files()] == ["a/b", "k", "m/again", "m/big"]
    assert harmed.folders() == ["a", "m"]
    harmed.delete("a/b")
    assert harmed.delete_all("m") == 2
    assert [item.key for item in s3_store.files()] == ["k"]
    assert s3_store.read("k") == b"second"
    assert proxy.done[fault] >= 5
    assert set(proxy.done) == {fault}


def test_a_conditional_write_whose_answer_is_lost_is_known_as_ones_own(proxy: FaultProxy, harmed: Store) -> None:
    proxy.plan = first(Fault.LOST, "PUT", "record")
    assert harmed.put_if_absent("record", b"same bytes")
    assert not harmed.put_if_absent("record", b"same bytes")  # by another request, so not its own
    proxy.plan = lambda method, target, times: Fault.LOST if method == "PUT" and times == 3 else None
    assert harmed.put_if_match("record", b"new", b"same bytes")
    assert not harmed.put_if_match("record", b"new", b"same bytes")
    assert proxy.done[Fault.LOST] == 2


def test_somebody_elses_record_with_the_same_bytes_is_not_ones_own(
    proxy: FaultProxy, harmed: Store, s3_store: Store
) -> None:
    assert s3_store.put_if_absent("record", b"same bytes")
    proxy.plan = first(Fault.LOST, "PUT", "record")
    assert not harmed.put_if_absent("record", b"same bytes")
    assert not harmed.put_if_match("record", b"same bytes", b"other bytes")
    assert proxy.done[Fault.LOST] == 1


def test_a_write_that_was_replaced_before_its_answer_came_is_still_known(
    proxy: FaultProxy, harmed: Store, s3_store: Store
) -> None:
    """The answer is lost, another process goes on from what was written, and only then the request is repeated."""

    def plan(method: str, target: str, times: int) -> Fault | None:
        if method == "PUT" and times == 0:
            return Fault.LOST
        if method == "PUT" and times == 1:
            assert s3_store.put_if_match("record", b"third", b"second")
        return None

    s3_store.write("record", b"first")
    proxy.plan = plan
    assert harmed.put_if_match("record", b"second", b"first")
    assert s3_store.read("record") == b"third"


def test_one_of_many_writers_wins_and_no_update_is_lost(proxy: FaultProxy, s3_store: Store) -> None:
    """Writers of the same bytes: only what each is told tells them apart."""
    proxy.plan = seeded(3, share=0.3, faults=(Fault.LOST, Fault.RESET, Fault.BUSY))
    writers, keys, steps = 3, 5, 6
    s3_store.write("counter", b"0")
    together = threading.Barrier(writers)

    def work(number: int) -> list[int]:
        store = open_store(s3_store.url)
        together.wait()
        won = [key for key in range(keys) if store.put_if_absent(f"record-{key}", b"the same")]
        done = 0
        while done < steps:
            current = store.read("counter")
            done += store.put_if_match("counter", b"%d" % (int(current) + 1), current)
        return won

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(work, range(writers)))
    assert sorted(key for each in won for key in each) == list(range(keys))
    assert s3_store.read("counter") == b"%d" % (writers * steps)
    assert proxy.done[Fault.LOST] > 0


def test_a_harmed_store_does_what_a_dictionary_does(proxy: FaultProxy, harmed: Store, s3_store: Store) -> None:
    proxy.plan = seeded(1, share=0.35)
    compare_with_dictionary(harmed, s3_store, random.Random(1), 40)
    assert set(proxy.done) == set(ORDINARY)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_a_harmed_store_does_what_a_dictionary_does_for_long(
    seed: int, proxy: FaultProxy, harmed: Store, s3_store: Store
) -> None:
    proxy.plan = seeded(seed, share=0.4)
    compare_with_dictionary(harmed, s3_store, random.Random(seed), 400)
    assert all(proxy.done[fault] > 10 for fault in ORDINARY)


def test_many_requests_side_by_side_outlast_a_server_that_is_away(
    proxy: FaultProxy, s3_store: Store, tmp_path: Path
) -> None:
    """More failed connections than botocore's own retries have in store for one client."""
    names = [f"m/{number:02}" for number in range(24)]
    for name in names:
        s3_store.write(name, name.encode())
    proxy.plan = seeded(1, share=1.0, faults=(Fault.RESET,), in_a_row=4)
    harmed = open_store(s3_store.url)
    harmed.download_all("m", tmp_path / "out")
    assert [(tmp_path / "out" / name[2:]).read_bytes() for name in names] == [name.encode() for name in names]
    assert proxy.done[Fault.RESET] > 4 * len(names)


def compare_with_dictionary(harmed: Store, direct: Store, chance: random.Random, steps: int) -> None:
    """Random operations on a few keys; after each, whoever reads past the proxy sees exactly the dictionary."""
    model: dict[str, bytes] = {}
    names = [f"{folder}/{name}" for folder in "ab" for name in "xyz"]
    for _ in range(steps):
        key, data = chance.choice(names), chance.randbytes(chance.choice((0, 1, 50, 5000)))
        match chance.randrange(8):
            case 0:
                harmed.write(key, data)
                model[key] = data
            case 1:
                assert harmed.put_if_absent(key, data) == (key not in model)
                model.setdefault(key, data)
            case 2:
                expected = chance.choice((model.get(key, b"-"), b"other"))
                assert harmed.put_if_match(key, data, expected) == (model.get(key) == expected)
                if model.get(key) == expected:
                    model[key] = data
            case 3:
                harmed.delete(key)
                model.pop(key, None)
            case 4 if key in model:
                assert harmed.read(key) == b"".join(harmed.stream(key)) == model[key]
            case 5 if key in model:
                target = chance.choice(names)
                if target != key:
                    harmed.copy(key, target)
                    model[target] = model[key]
            case 6:
                gone = [name for name in model if name.startswith("a/")]
                assert harmed.delete_all("a") == len(gone)
                for name in gone:
                    del model[name]
            case _:
                assert [item.key for item in harmed.files()] == sorted(model)
                with pytest.raises(FileNotFoundError):
                    harmed.read("none")
        assert {item.key: direct.read(item.key) for item in direct.files()} == model


@pytest.mark.parametrize("forgetful", [False, True], ids=["like AWS", "like MinIO"])
def test_an_upload_whose_completion_is_not_acknowledged(
    forgetful: bool, proxy: FaultProxy, harmed: Store, s3_store: Store, tmp_path: Path
) -> None:
    data = os.urandom(PARTS)
    (tmp_path / "in").write_bytes(data)
    proxy.forgetful = forgetful
    proxy.plan = first(Fault.LOST, "POST", "uploadId=", count=2)
    harmed.upload(tmp_path / "in", "big")
    harmed.copy("big", "copy")
    assert s3_store.read("big") == s3_store.read("copy") == data
    assert proxy.done[Fault.LOST] == 4


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.BUSY], ids=lambda fault: fault.name)
def test_what_fails_for_good_is_one_message_and_changes_nothing(
    fault: Fault,
    proxy: FaultProxy,
    s3_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    harmed = open_store(s3_store.url)
    (tmp_path / "in").write_bytes(bytes(PARTS))
    s3_store.write("old", b"old")
    s3_store.write("d/old", b"old")
    proxy.plan = lambda method, target, times: fault if method in ("PUT", "DELETE") else None
    writes: list[Callable[[], Any]] = [
        lambda: harmed.write("old", b"new"),
        lambda: harmed.put_if_match("old", b"new", b"old"),
        lambda: harmed.put_if_absent("new", b"new"),
        lambda: harmed.upload(tmp_path / "in", "new"),
        lambda: harmed.upload(tmp_path / "in", "old"),
        lambda: harmed.copy("old", "new"),
        lambda: harmed.delete("old"),
        lambda: harmed.delete_all("d"),
    ]
    for write in writes:
        with pytest.raises(InfraError, match="S3 store"):
            write()
    assert {item.key: s3_store.read(item.key) for item in s3_store.files()} == {"d/old": b"old", "old": b"old"}
    proxy.plan = lambda method, target, times: fault
    for read in (lambda: harmed.read("old"), lambda: harmed.download("old", tmp_path / "out"), harmed.folders):
        with pytest.raises(InfraError, match="S3 store"):
            read()
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"in"}


def test_a_body_that_never_comes_whole_is_a_failure_and_no_short_file(
    proxy: FaultProxy, s3_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    harmed = open_store(s3_store.url)
    s3_store.write("k", b"0123456789")
    proxy.plan = lambda method, target, times: Fault.HALF if method == "GET" else None
    for read in (lambda: harmed.read("k"), lambda: harmed.download("k", tmp_path / "k")):
        with pytest.raises(InfraError, match="does not answer"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_noticed_and_asked_for_again(
    proxy: FaultProxy, harmed: Store, s3_store: Store, tmp_path: Path
) -> None:
    data = os.urandom(1000)
    s3_store.write("k", data)
    proxy.plan = first(Fault.FLIPPED, "GET", "/k")
    assert harmed.read("k") == data
    proxy.plan = lambda method, target, times: Fault.FLIPPED if times in (2, 3) else None
    harmed.download("k", tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == data
    assert proxy.done[Fault.FLIPPED] == 3
    proxy.plan = lambda method, target, times: Fault.FLIPPED
    with pytest.raises(InfraError, match="checksum"):
        harmed.read("k")
    with pytest.raises(InfraError, match="checksum"):
        list(harmed.stream("k"))  # whose pieces are given away before the end is known


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(
    proxy: FaultProxy, harmed: Store, s3_store: Store
) -> None:
    s3_store.write("k", b"a" * PARTS)

    def plan(method: str, target: str, times: int) -> Fault | None:
        if method == "GET" and times == 1:
            s3_store.write("k", b"b" * PARTS)
        return Fault.HALF if method == "GET" and times == 0 else None

    proxy.plan = plan
    with pytest.raises(InfraError, match=r"PreconditionFailed|412"):
        list(harmed.stream("k"))


def publish(store: Store, text: bytes) -> tuple[Artifact, str]:
    """What is published in the end, and the name of this try."""
    identity = Identity("Corpus", "corpus", 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        store.write(attempt.resume_key("state"), b"to continue from")
        store.write(attempt.key("data/part-0"), text)
        attempt.path("data/big").write_bytes(bytes(PARTS))
        attempt.write_json("report.json", {"documents": 2})
        record = Artifact(
            kind=identity.kind,
            name=identity.name,
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record), attempt.name


def test_an_artifact_is_published_whole_and_once(proxy: FaultProxy, s3_store: Store) -> None:
    """Two processes at the same artifact; whoever looks meanwhile sees no record, or one whose files are all there."""
    proxy.plan = seeded(5, share=0.3)
    done = threading.Event()
    seen: list[str] = []

    def watch() -> None:
        while not done.is_set():
            for artifact in list_artifacts(s3_store):
                seen.append(artifact.attempt)
                assert verify_artifact(s3_store, artifact) == []

    with ThreadPoolExecutor(3) as pool:
        watching = pool.submit(watch)
        tries = [pool.submit(publish, open_store(s3_store.url), b"text %d" % number) for number in range(2)]
        try:
            published = [each.result() for each in tries]
        finally:
            done.set()
        watching.result()
    record = load_artifact(s3_store, published[0][0].id)
    assert record is not None
    assert [each.attempt for each, _ in published] == [record.attempt] * 2
    assert record.attempt in {name for _, name in published}
    assert set(seen) <= {record.attempt}
    assert verify_artifact(s3_store, record) == []
    assert s3_store.read(record.key("data/big")) == bytes(PARTS)
    assert not any("/resume/" in item.key for item in s3_store.files() if record.attempt in item.key)
    assert sum(proxy.done.values()) > 5


def table_of(rows: int) -> Any:
    import pyarrow as pa

    return pa.table({"id": list(range(rows)), "text": [f"document {n}" for n in range(rows)]})


def test_pyarrow_reads_what_comes_in_halves_first(proxy: FaultProxy, harmed: Store, s3_store: Store) -> None:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table_of(1000), sink)
    s3_store.write("d/part.parquet", sink.getvalue())
    proxy.plan = first(Fault.HALF, "GET", "part.parquet")
    filesystem, path = harmed.arrow("d/part.parquet")
    assert pq.read_table(path, filesystem=filesystem).equals(table_of(1000))
    assert proxy.done[Fault.HALF] == 1


@pytest.mark.slow  # pyarrow's own waits between its tries
@pytest.mark.parametrize("fault", ORDINARY, ids=lambda fault: fault.name)
def test_pyarrow_reads_and_writes_through_one_fault_in_a_row(
    fault: Fault, proxy: FaultProxy, harmed: Store, s3_store: Store
) -> None:
    import pyarrow.parquet as pq

    harm = seeded(1, share=1.0, faults=(fault,), in_a_row=1)

    def plan(method: str, target: str, times: int) -> Fault | None:
        """pyarrow 26 takes a 503 for the answer to every further request that completes a multipart upload."""
        busy_end = fault is Fault.BUSY and method == "POST" and "uploadId=" in target
        return None if busy_end else harm(method, target, times)

    proxy.plan = plan
    filesystem, path = harmed.arrow("d/part.parquet")
    pq.write_table(table_of(1000), path, filesystem=filesystem)
    assert pq.read_table(path, filesystem=filesystem).equals(table_of(1000))
    filesystem, path = s3_store.arrow("d/part.parquet")
    assert pq.read_table(path, filesystem=filesystem).equals(table_of(1000))
    with harmed.arrow("d/part.parquet")[0].open_input_stream(path) as stream:
        assert stream.read() == s3_store.read("d/part.parquet")
    assert proxy.done[fault] >= 2
