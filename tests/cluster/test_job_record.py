"""Of two attempts at one run only the newer writes, on both kinds of store, whatever gets lost on the way."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.attempt import Attempt
from cluster.errors import InfraError, UserError
from cluster.job_record import (
    LOST_AFTER_SECONDS,
    FencedOff,
    Holding,
    guard_of,
    key_of,
    list_jobs,
    read_job,
    read_log,
    write_log,
)
from cluster.store import Store
from cluster.store_local import LocalStore

RUN = "raymill-demo-0123456789ab"


def test_the_newer_attempt_fences_the_older_off(any_store: Store) -> None:
    older = Holding.take(any_store, RUN, "demo")
    older.write(stage="corpus")
    newer = Holding.take(any_store, RUN, "demo", submission="x-2")
    with pytest.raises(FencedOff):
        older.write(stage="tokens")
    newer.write(stage="curate")
    with pytest.raises(FencedOff):
        older.write(state="succeeded")
    found = read_job(any_store, RUN)
    assert found is not None
    assert (found.attempt, found.stage, found.submission, found.state) == (2, "curate", "x-2", "running")
    assert [(each.attempt, each.state) for each in found.earlier] == [(1, "failed")]
    assert "corpus" in found.earlier[0].message


def test_many_that_begin_at_once_get_different_numbers(any_store: Store) -> None:
    held: list[Holding] = []
    gate = threading.Barrier(6)

    def begin() -> None:
        gate.wait()
        held.append(Holding.take(any_store, RUN, "demo"))

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.record.attempt for each in held) == [1, 2, 3, 4, 5, 6]
    winners = []
    for each in held:
        try:
            each.write(stage="mine")
            winners.append(each.record.attempt)
        except FencedOff:
            continue
    assert winners == [6]


def test_a_write_whose_answer_got_lost_is_no_fence(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    holding = Holding.take(store, RUN, "demo")
    real = LocalStore.put_if_match

    def lost(self: LocalStore, key: str, data: bytes, expected: bytes) -> bool:
        real(self, key, data, expected)
        raise InfraError("the answer got lost")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put_if_match", lost)
        with pytest.raises(InfraError, match="got lost"):
            holding.write(stage="corpus")
    holding.write(stage="curate")
    found = read_job(store, RUN)
    assert found is not None
    assert found.stage == "curate"
    assert found.attempt == 1


def published(store: Store, guard: Any) -> Artifact:
    with Attempt(store, "Corpus/corpus-0123456789ab", guard=guard) as attempt:
        attempt.write_text("data.txt", "x")
        record = Artifact(
            kind="Corpus",
            name="corpus",
            fingerprint="0123456789ab",
            identity={},
            attempt=attempt.name,
            files=attempt.seal(),
        )
        return attempt.publish(record)


def test_an_attempt_that_is_fenced_off_publishes_nothing(store: LocalStore) -> None:
    older = Holding.take(store, RUN, "demo")
    guard = guard_of(older.environment(), store)
    guard()
    newer = Holding.take(store, RUN, "demo")
    with pytest.raises(FencedOff):
        published(store, guard)
    assert store.folders("Corpus/corpus-0123456789ab") == []
    assert published(store, guard_of(newer.environment(), store)).name == "corpus"


def test_outside_a_job_nothing_is_checked(store: LocalStore) -> None:
    guard_of({}, store)()
    holding = Holding.take(store, RUN, "demo")
    Holding.take(store, RUN, "demo")
    guard_of(holding.environment() | {"RAYMILL_JOB_STORE": "another"}, store)()


def test_logs_are_pieces_that_are_written_once(any_store: Store) -> None:
    record = Holding.take(any_store, RUN, "demo").record
    write_log(any_store, record, 1, "one\n")
    write_log(any_store, record, 2, "two\n")
    write_log(any_store, record, 1, "changed\n")
    assert read_log(any_store, RUN, 1) == ("one\ntwo\n", 3)
    assert read_log(any_store, RUN, 1, 2) == ("two\n", 3)
    assert read_log(any_store, RUN, 2) == ("", 1)


def test_silence_is_taken_for_death_only_while_it_should_run(store: LocalStore) -> None:
    holding = Holding.take(store, RUN, "demo")
    soon = holding.record.updated_s + LOST_AFTER_SECONDS
    assert not holding.record.lost(soon - 1)
    assert holding.record.lost(soon + 1)
    assert not holding.write(state="succeeded", exit_code=0).lost(soon + 1)
    assert [each.id for each in list_jobs(store)] == [RUN]


def test_a_damaged_record_is_named(store: LocalStore) -> None:
    store.write(key_of(RUN), b'{"id": 3}')
    with pytest.raises(UserError, match=r"job\.json: the record of this run is damaged"):
        read_job(store, RUN)
    assert read_job(store, "raymill-none") is None
