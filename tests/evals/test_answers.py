"""Answers are kept whole, found by anybody who asks the same of the same model, and by nobody else."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from cluster.store import Store
from evals.answers import AnswerBook, key_of
from evals.pool import CHUNK_TOKENS, ScorerPool, _chunks
from evals.scorer import Group

MODEL = "a" * 64
SETTINGS = {"backend": "transformers", "batch_size": 8}


def test_what_was_kept_is_read_again_to_the_last_bit(any_store: Store) -> None:
    book = AnswerBook.of(any_store, MODEL, SETTINGS)
    assert book.read() == {}
    value = [[[-1.2345678901234567, True], [-0.1, False]]]
    book.keep({"k1": value, "k2": ["a text"]})
    book.keep({"k3": []})
    assert AnswerBook.of(any_store, MODEL, SETTINGS).read() == {"k1": value, "k2": ["a text"], "k3": []}


@pytest.mark.parametrize(
    ("model", "settings"), [("b" * 64, SETTINGS), (MODEL, {**SETTINGS, "batch_size": 4}), (MODEL, {})]
)
def test_another_model_or_setting_has_a_book_of_its_own(store: Store, model: str, settings: dict[str, Any]) -> None:
    AnswerBook.of(store, MODEL, SETTINGS).keep({"k": [1]})
    assert AnswerBook.of(store, model, settings).read() == {}


def test_binding_leaves_one_object_with_everything(any_store: Store) -> None:
    book = AnswerBook.of(any_store, MODEL, SETTINGS)
    for number in range(5):
        book.keep({f"k{number}": [number]})
    book.bind()
    book.bind()
    assert len(list(any_store.files(f"{book.folder}/"))) == 1
    assert book.read() == {f"k{number}": [number] for number in range(5)}
    book.forget()
    assert book.read() == {}


def test_a_part_that_another_evaluation_binds_meanwhile_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = AnswerBook.of(store, MODEL, SETTINGS)
    book.keep({"k": [1]})
    listed = list(store.files(f"{book.folder}/"))
    monkeypatch.setattr(type(store), "files", lambda *_: iter(listed))
    store.delete(listed[0].key)
    assert book.read() == {}


def test_a_key_is_of_the_requests_and_of_the_tasks_version() -> None:
    group = Group([1, 2], [[3]], ("arc_easy@1.0",))
    keys = {
        key_of(["score", [each]])
        for each in (
            group,
            group._replace(inputs=[1, 3]),
            group._replace(continuations=[[4]]),
            group._replace(tasks=("arc_easy@2.0",)),
        )
    }
    assert len(keys) == 4
    assert key_of(["score", [group]]) == key_of(["score", [Group([1, 2], [[3]], ("arc_easy@1.0",))]])


def test_chunks_keep_the_order_and_close_when_they_are_full() -> None:
    tokens = [CHUNK_TOKENS, 1, CHUNK_TOKENS - 1, 5, 5]
    assert _chunks([0, 1, 2, 3, 4], tokens, 1) == [[0], [1, 2], [3, 4]]
    assert _chunks([1, 4], tokens, 1) == [[1, 4]]
    assert _chunks([], tokens, 2) == []


def test_with_several_workers_the_last_chunks_are_small() -> None:
    """So no worker is busy for long when the others are done, and none of what is far from the end is cut up."""
    tokens = [CHUNK_TOKENS // 8] * 400
    chunks = _chunks(list(range(400)), tokens, 2)
    assert [index for chunk in chunks for index in chunk] == list(range(400))
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (8, 1)
    assert sizes.count(8) > 35


class Direct(ScorerPool):
    """The pool without Ray: work is done where it is asked for, and counted."""

    def __init__(self, book: AnswerBook) -> None:
        self._actors, self._loading, self._book, self._kept, self.asked = [], [], book, None, 0
        self.done: list[list[str]] = []

    def _stream(self, work: list[Callable[[Any], Any]], on_done: Callable[[int], None]) -> list[Any]:
        results = []
        for number, call in enumerate(work):
            assert isinstance(call, functools.partial)
            _, batches, keys, book = call.args
            self.done.append(keys)
            answers = [[[(-float(sum(group.inputs)), False)] for group in batch] for batch in batches]
            book.keep(dict(zip(keys, answers, strict=True)))
            results.append(answers)
            on_done(number)
        return results


def test_a_second_evaluation_asks_only_what_is_new_and_gives_the_same(store: Store) -> None:
    book = AnswerBook.of(store, MODEL, SETTINGS)
    batches = [[Group([number], [[1]])] for number in range(6)]
    told: list[int] = []
    first = Direct(book)
    some = first.score(batches[1:4], told.append)
    assert first.asked == 3
    second = Direct(book)
    whole = second.score(batches, told.append)
    assert second.asked == 3
    assert whole[1:4] == [[[[-float(number), False]]] for number in (1, 2, 3)]
    assert [answer[0][0][0] for answer in whole] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0]
    assert some == [[[(-float(number), False)]] for number in (1, 2, 3)]
    assert sum(told) == 3 + 6
