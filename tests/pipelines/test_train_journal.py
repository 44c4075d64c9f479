from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InfraError
from cluster.store import Store, open_store
from pipelines.train import journal
from pipelines.train.journal import Follower, Journal, carry_over, settle


def train(step: int, loss: float) -> dict[str, object]:
    return {"kind": "train", "step": step, "loss": loss}


def test_a_restart_takes_back_what_was_said_of_later_steps() -> None:
    records = [
        {"kind": "start", "step": 0},
        train(1, 5.0),
        train(2, 4.0),
        train(3, 3.5),
        {"kind": "start", "step": 2},
        train(3, 3.0),
    ]
    settled = settle(records)
    assert [(each["step"], each.get("loss")) for each in settled if each["kind"] == "train"] == [
        (1, 5.0),
        (2, 4.0),
        (3, 3.0),
    ]


def test_lines_are_readable_at_once_and_continue_in_a_new_segment(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Journal(store, "run/journal")
    follower = Follower(store, "run/journal")
    writer.write({"kind": "start", "step": 0})
    assert [each["kind"] for each in follower.poll()] == ["start"]
    writer.write(train(1, 2.0))
    assert follower.poll()[-1] == train(1, 2.0)

    again = Journal(store, "run/journal")  # a restarted worker: the first one never closed
    again.write({"kind": "start", "step": 0})
    again.write(train(1, 2.5))
    assert [each["loss"] for each in follower.poll() if each["kind"] == "train"] == [2.5]

    carry_over(store, "run/journal", "next/journal")
    assert Follower(store, "next/journal").poll() == follower.poll()


def test_what_was_written_grows_also_where_a_restart_takes_something_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    follower = Follower(store, "j")
    for step in (0, 40, 20):  # the checkpoint at 40 was damaged meanwhile
        writer = Journal(store, "j")
        writer.write({"kind": "start", "step": step})
        writer.close()
    assert [each["step"] for each in follower.poll()] == [0, 20]
    assert [each["step"] for each in follower.written()] == [0, 40, 20]


lines = st.lists(
    st.tuples(
        st.sampled_from(["train", "event", "start", "rollback"]), st.integers(0, 9), st.integers(0, 2), st.booleans()
    ),
    max_size=25,
)


@given(lines)
def test_following_gives_what_reading_everything_at_once_gives(written: list[tuple[str, int, int, bool]]) -> None:
    """Lines that come to any of three segments, in any order, with looks in between."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "j"
        folder.mkdir()
        follower = Follower(open_store(name), "j")
        segments: dict[int, list[dict[str, object]]] = {0: [], 1: [], 2: []}
        for number, (kind, step, segment, looks) in enumerate(written):
            record: dict[str, object] = {"kind": kind, "step": step, "number": number}
            segments[segment].append(record)
            with (folder / f"{segment:06d}.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            if looks:
                everything = [*segments[0], *segments[1], *segments[2]]
                assert follower.written() == everything
                assert follower.poll() == settle(everything)
        assert follower.poll() == settle([*segments[0], *segments[1], *segments[2]])


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    writer = Journal(store, "j")
    writer.write(train(1, 2.0))
    path = next((tmp_path / "j").iterdir())
    with path.open("a") as file:
        file.write('{"kind": "tra')
    assert Follower(store, "j").poll() == [train(1, 2.0)]


def test_segments_stay_small(tmp_path: Path, monkeypatch: object) -> None:
    monkeypatch.setattr(journal, "SEGMENT_RECORDS", 3)  # type: ignore[attr-defined]
    store = open_store(tmp_path)
    writer = Journal(store, "j")
    for step in range(8):
        writer.write(train(step, 1.0))
    sizes = [len(path.read_text().splitlines()) for path in sorted((tmp_path / "j").iterdir())]
    assert sizes == [3, 3, 2]
    assert [each["step"] for each in Follower(store, "j").poll()] == list(range(8))
    assert json.loads(sorted((tmp_path / "j").iterdir())[0].read_text().splitlines()[0])["step"] == 0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InfraError("the S3 store does not answer")])
def test_a_store_that_fails_for_a_while_loses_no_line(
    any_store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(journal, "REMOTE_INTERVAL_S", 0.0)
    writer = Journal(any_store, "j")
    writer.write(train(1, 1.0))

    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(type(any_store), "write", refuse)
        broken.setattr(Journal, "_append", refuse)
        for step in (2, 3):
            writer.write(train(step, 1.0))
        with pytest.raises(type(error)):
            writer.close()
    writer.write(train(4, 1.0))
    writer.write(train(5, 1.0))
    writer.close()
    assert [each["step"] for each in Follower(any_store, "j").poll()] == [1, 2, 3, 4, 5]


def test_a_rollback_takes_back_steps_and_keeps_why() -> None:
    event = {"kind": "event", "step": 3, "text": "the loss jumped"}
    records = [train(1, 5.0), train(2, 4.0), train(3, 3.5), event, {"kind": "rollback", "step": 1}, train(2, 4.1)]
    settled = settle(records)
    assert [each["loss"] for each in settled if each["kind"] == "train"] == [5.0, 4.1]
    assert {**event, "step": 1} in settled  # where a later start leaves it
