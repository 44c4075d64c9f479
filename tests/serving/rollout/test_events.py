"""Files of events: whole or not there, written by one writer, at a bounded rate."""

from __future__ import annotations

import json

import pytest

from cluster.errors import UserError
from cluster.store import open_store
from serving.rollout.events import READ_AT_ONCE, SCHEMA_VERSION, EventLog, Overtaken, decode, encode
from serving.rollout.units import Unit

TICK = {"kind": "units", "at": 1.0, "units": [], "excluded": {}}


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def test_what_is_written_is_read_back(store):
    log = EventLog(store, "chat", "r-1")
    events = [{"kind": "start", "at": 0.25}, TICK | {"units": [["a", 0.1, None, 1e-12]]}]
    for event in events:
        log.add(event)
        log.write(event["at"])
    again = EventLog(store, "chat", "r-1")
    recorded = again.read()
    assert (list(recorded.events), recorded.files, recorded.damaged) == (events, 2, [])
    assert (store.url and [item.key for item in store.files("deployments")]) == [
        "deployments/chat/rollouts/r-1/events-00000001.json",
        "deployments/chat/rollouts/r-1/events-00000002.json",
    ]
    again.add(TICK)
    again.write(9.0)
    assert EventLog(store, "chat", "r-1").read().files == 3


def test_every_torn_write_is_noticed(store):
    data = encode([{"kind": "start", "at": 0.25, "why": "plan"}])
    assert decode(data, "here") is not None
    for length in range(len(data) - 1):
        assert decode(data[:length], "here") is None
    for index in range(0, len(data) - 1, 7):
        flipped = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        try:
            events = decode(flipped, "here")
        except UserError:
            continue  # the schema's number was hit, and says so
        assert events is None or events == decode(data, "here")


def test_a_newer_schema_is_refused_and_the_first_one_is_read():
    unit = [1, "k", 2, 0, 0, 0, None, None, [1.0], {}]  # without those who gave up
    whole = json.loads(encode([TICK | {"units": [unit]}]))
    assert whole["schema_version"] == SCHEMA_VERSION == 2
    with pytest.raises(UserError, match=r"a newer Raymill wrote it \(schema 3; this one reads up to 2\)"):
        decode(json.dumps(whole | {"schema_version": 3}).encode(), "here")
    (event,) = decode(json.dumps(whole | {"schema_version": 1}).encode(), "here")
    assert Unit.decode(event["units"][0]).gave_up == 0


def test_the_second_of_two_writers_is_told(store):
    first, second = EventLog(store, "chat", "r-1"), EventLog(store, "chat", "r-1")
    for log, at in ((first, 1.0), (second, 2.0)):
        log.read()
        log.add(TICK | {"at": at})
    first.write(1.0)
    with pytest.raises(Overtaken):
        second.write(2.0)
    assert list(second.read().events) == [TICK]


def test_a_write_whose_answer_was_lost_is_no_other_writer(store):
    log = EventLog(store, "chat", "r-1")
    log.add(TICK)
    store.put_if_absent("deployments/chat/rollouts/r-1/events-00000001.json", encode([TICK]))
    log.write(1.0)
    assert log.pending == []


def test_decisions_are_due_at_once_and_units_when_many_or_old(store):
    log = EventLog(store, "chat", "r-1")
    assert not log.due(0.0)
    log.add(TICK | {"at": 0.0, "units": [[1]]})
    assert not log.due(9.9)
    assert log.due(10.0)
    log.write(10.0)
    log.add(TICK | {"at": 10.1, "units": [[1]] * 200})
    assert not log.due(10.9), "at most about one file a second"
    assert log.due(11.0)
    log.write(11.0)
    log.add({"kind": "state", "at": 11.1})
    assert log.due(11.1)


def test_files_are_read_as_they_are_needed(store, monkeypatch):
    """A long rollout must not be in memory as a whole."""
    log = EventLog(store, "chat", "r-1")
    for at in range(40):
        log.add(TICK | {"at": float(at)})
        log.write(float(at))
    reads = []
    monkeypatch.setattr(store, "read", lambda key, read=store.read: reads.append(key) or read(key))
    events = log.read().events
    assert next(events)["at"] == 0.0
    assert len(reads) <= READ_AT_ONCE
    assert len(list(events)) == 39
