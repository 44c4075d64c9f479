"""One artifact's checkpoint as the beginning of another's."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cluster.attempt import Attempt
from cluster.errors import InfraError
from cluster.store import Store
from pipelines.train.checkpoint import Checkpoint, damage, find, newest_try
from pipelines.train.handover import HANDED_OVER, hand_over
from pipelines.train.journal import Follower

SOURCE, TARGET = "Model/pretrain-1", "Model/pretrain-2"
FIRST, SECOND = "20260101T000000-aaaa", "20260102T000000-bbbb"


def leave(store: Store, attempt: str, step: int, text: bytes = b"weights", **memory: Any) -> str:
    """A checkpoint, and a journal line, as a try leaves them."""
    base = f"{SOURCE}/{attempt}/resume/train"
    key = f"{base}/checkpoints/step-{step:09d}"
    store.write(f"{key}/__0_0.distcp", text)
    files = {"__0_0.distcp": (hashlib.sha256(text).hexdigest(), len(text))}
    store.write(f"{key}/complete.json", Checkpoint(key, step, files, memory).encode())
    line = {"kind": "train", "step": step, "loss": 1.0}
    store.write(f"{base}/journal/{step:05d}.jsonl", (json.dumps(line) + "\n").encode())
    return key


def test_the_other_continues_as_from_a_try_of_its_own(any_store: Store) -> None:
    leave(any_store, FIRST, 20, skips=[])
    leave(any_store, FIRST, 40, b"later", skips=[[3, 2]])
    hand_over(any_store, SOURCE, TARGET, 40)
    with Attempt(any_store, TARGET) as attempt:
        (earlier,) = attempt.earlier()
    assert earlier == f"{TARGET}/{HANDED_OVER}"
    prefix = f"{earlier}/resume/train/checkpoints"
    (found,) = find(any_store, [prefix])
    assert (found.step, found.memory) == (40, {"skips": [[3, 2]]})
    assert damage(any_store, found) == []
    assert any_store.read(f"{found.key}/__0_0.distcp") == b"later"
    assert newest_try(any_store, [prefix]) == prefix
    journal = Follower(any_store, f"{earlier}/resume/train/journal").written()
    assert [each["step"] for each in journal] == [20, 40]
    before = {item.key: any_store.read(item.key) for item in any_store.files(f"{TARGET}/")}
    any_store.delete_all(SOURCE)
    hand_over(any_store, SOURCE, TARGET, 40)  # a second time it is there already
    assert {item.key: any_store.read(item.key) for item in any_store.files(f"{TARGET}/")} == before


def test_one_that_was_cut_off_is_done_again(store: Store) -> None:
    leave(store, FIRST, 20)
    hand_over(store, SOURCE, TARGET, 20)
    (found,) = find(store, [f"{TARGET}/{HANDED_OVER}/resume/train/checkpoints"])
    store.delete(f"{found.key}/complete.json")
    store.write(f"{found.key}/__0_0.distcp", b"hal")
    hand_over(store, SOURCE, TARGET, 20)
    (again,) = find(store, [f"{TARGET}/{HANDED_OVER}/resume/train/checkpoints"])
    assert again == found
    assert damage(store, again) == []


def test_a_damaged_one_is_passed_over(store: Store) -> None:
    leave(store, FIRST, 20, b"sound")
    key = leave(store, SECOND, 20, b"sound")
    store.write(f"{key}/__0_0.distcp", b"sOund")
    hand_over(store, SOURCE, TARGET, 20)
    (found,) = find(store, [f"{TARGET}/{HANDED_OVER}/resume/train/checkpoints"])
    assert store.read(f"{found.key}/__0_0.distcp") == b"sound"


def test_none_is_an_error_that_may_be_repeated(store: Store) -> None:
    leave(store, FIRST, 20)
    with pytest.raises(InfraError, match="the checkpoint at step 30 is gone or damaged"):
        hand_over(store, SOURCE, TARGET, 30)
    assert not any(store.files(f"{TARGET}/"))
