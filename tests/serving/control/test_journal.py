"""Versions follow each other, no change of two racing writers is lost, and a damaged record is one clear error."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import InternalError, UserError
from cluster.store import Store, StoredFile, open_store
from cluster.store_local import LocalStore
from serving.config import ServingConfig
from serving.control.journal import Journal, deployment_name, deployment_names
from serving.control.state import ModelSource, ServingState
from serving.engines.plan import VariantSource, initial_state

CHANGES = "deployments/docs/changes"


def first_state(name: str = "docs") -> ServingState:
    source = VariantSource(ModelSource(folder="/models/base"))
    return initial_state(ServingConfig(), {"base": source, "tuned": source}, name=name, by="me", now=1.0)


def renamed(name: str):  # type: ignore[no-untyped-def]
    return lambda state: state.model_copy(update={"model_name": f"{state.model_name}+{name}"})


@pytest.fixture
def journal(any_store: Store) -> Journal:
    made = Journal(any_store, "docs")
    made.create(first_state())
    return made


def test_a_change_is_the_next_version(journal: Journal) -> None:
    changed = journal.change(renamed("a"), by="ann", reason="try", now=5.0)
    assert (changed.version, changed.changed_by, changed.reason, changed.changed_at) == (2, "ann", "try", 5.0)
    again = Journal(journal.store, "docs")
    assert again.current() == changed
    assert [state.version for state in again.history()] == [1, 2]
    assert again.read(1).model_name == "docs"
    assert [file.key for file in journal.store.files(CHANGES)] == [f"{CHANGES}/{n:08d}.json" for n in (1, 2)]


def test_a_change_that_changes_nothing_writes_nothing(journal: Journal) -> None:
    assert journal.change(lambda state: state.model_copy(), by="ann", reason="again").version == 1
    assert journal.change(lambda state: state.model_copy(update={"reason": "x"}), by="a", reason="b").version == 1
    assert len(journal.history()) == 1


def test_what_another_writer_wrote_is_seen(journal: Journal) -> None:
    other = Journal(journal.store, "docs")
    assert other.current().version == 1
    journal.change(renamed("a"), by="ann", reason="")
    journal.change(renamed("b"), by="ann", reason="")
    assert other.current().model_name == "docs+a+b"


def test_threads_lose_no_change(journal: Journal) -> None:
    writers = [Journal(journal.store, "docs") for _ in range(6)]

    def write(number: int) -> None:
        for turn in range(3):
            writers[number].change(renamed(f"{number}.{turn}"), by=str(number), reason="race")

    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(write, range(len(writers))))
    last = Journal(journal.store, "docs").current()
    names = last.model_name.split("+")[1:]
    assert sorted(names) == sorted(f"{n}.{t}" for n in range(6) for t in range(3))
    assert last.version == 19
    for number in range(6):  # and each writer's own changes are in its order
        assert [name for name in names if name.startswith(f"{number}.")] == [f"{number}.{t}" for t in range(3)]


def _write_in_a_process(url: str, number: int) -> None:
    for turn in range(5):
        Journal(open_store(url), "docs").change(renamed(f"{number}.{turn}"), by=str(number), reason="race")


def test_processes_lose_no_change(store: LocalStore) -> None:
    Journal(store, "docs").create(first_state())
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_in_a_process, args=(store.url, number)) for number in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert [each.exitcode for each in writers] == [0, 0, 0]
    last = Journal(store, "docs").current()
    assert last.version == 16
    assert len(last.model_name.split("+")) == 16


def test_a_refused_change_writes_nothing(journal: Journal) -> None:
    def refuse(state: ServingState) -> ServingState:
        raise UserError("no", where="here", next_step="stop")

    with pytest.raises(UserError, match="no"):
        journal.change(refuse, by="ann", reason="")
    with pytest.raises(InternalError, match="weights and variants"):
        journal.change(lambda state: state.model_copy(update={"weights": {"base": 1.0}}), by="ann", reason="")
    with pytest.raises(InternalError, match="no variant"):
        journal.change(
            lambda state: state.model_copy(update={"owners": {"version": 0, "runs": [["gone", 0, 10_000]]}}),
            by="ann",
            reason="",
        )
    assert len(journal.history()) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "damaged"),
        (lambda text: b"", "damaged"),
        (lambda text: b"[]", "damaged"),
        (lambda text: b"\xff\xfe", "damaged"),
        (lambda text: text.replace(b'"version": 1,', b'"version": 7,', 1), "says version 7"),
        (lambda text: text.replace(b'"model_name"', b'"model_nam"', 1), "damaged"),
        (lambda text: text.replace(b'"runs"', b'"walks"', 1), "buckets"),
        (lambda text: text.replace(b'"schema_version": 2', b'"schema_version": 3', 1), "a newer Raymill wrote it"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_clear_error(store: LocalStore, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    Journal(store, "docs").create(first_state())
    key = f"{CHANGES}/00000001.json"
    before = store.read(key)
    assert damage(before) != before
    store.write(key, damage(before))
    with pytest.raises(UserError, match=message) as caught:
        Journal(store, "docs").current()
    assert caught.value.where.endswith("00000001.json")
    assert caught.value.next_step


def test_a_newer_schema_is_named_even_where_all_else_differs(store: LocalStore) -> None:
    store.write(f"{CHANGES}/00000001.json", json.dumps({"schema_version": 9, "wants": "more"}).encode())
    with pytest.raises(UserError, match="schema 9"):
        Journal(store, "docs").latest()


def test_a_record_of_the_first_schema_is_read_and_goes_on_in_the_newest(store: LocalStore) -> None:
    Journal(store, "docs").create(first_state())
    key = f"{CHANGES}/00000001.json"
    newer = {"recipe_weights", "recipe_require_keys", "served"}
    plain = {name: each for name, each in json.loads(store.read(key)).items() if name not in newer}
    store.write(key, json.dumps(plain | {"schema_version": 1}).encode())
    journal = Journal(store, "docs")
    assert journal.current().served == 1
    assert journal.change(lambda state: state.model_copy(update={"schema_version": 2}), by="", reason="").version == 1
    assert journal.change(renamed("a"), by="ann", reason="").schema_version == 2
    assert json.loads(store.read(f"{CHANGES}/00000002.json"))["schema_version"] == 2


def test_nothing_deployed(any_store: Store) -> None:
    assert Journal(any_store, "docs").latest() is None
    assert Journal(any_store, "docs").history() == []
    with pytest.raises(UserError, match="there is no deployment 'docs'"):
        Journal(any_store, "docs").current()
    with pytest.raises(UserError, match="cannot be the name"):
        Journal(any_store, "../other")


def test_create_only_once(journal: Journal) -> None:
    with pytest.raises(UserError, match="is there already"):
        Journal(journal.store, "docs").create(first_state())
    journal.change(lambda state: state.model_copy(update={"stopped": True}), by="ann", reason="")
    with pytest.raises(UserError, match="is there already"):  # it goes on, with its keys; see redeploy.intend
        Journal(journal.store, "docs").create(first_state())


def test_the_latest_of_thousands_is_asked_for_cheaply(store: LocalStore) -> None:
    """One listing at the start, then one question each for what may follow."""
    Journal(store, "docs").create(first_state())
    text = store.read(f"{CHANGES}/00000001.json")
    for version in range(2, 2001):
        path = Path(store.url, CHANGES, f"{version:08d}.json")
        path.write_bytes(text.replace(b'"version": 1,', f'"version": {version},'.encode(), 1))

    class Counting(LocalStore):
        listings = reads = 0

        def files(self, prefix: str = "") -> Iterator[StoredFile]:
            Counting.listings += 1
            return super().files(prefix)

        def read(self, key: str) -> bytes:
            Counting.reads += 1
            return super().read(key)

    journal = Journal(Counting(Path(store.url)), "docs")
    for _ in range(50):
        assert journal.current().version == 2000
    assert Counting.listings == 1
    assert Counting.reads == 1 + 50


def test_which_deployment_is_meant(any_store: Store) -> None:
    with pytest.raises(UserError, match="no deployment in this store"):
        deployment_name(any_store, None)
    docs = Journal(any_store, "docs")
    docs.create(first_state())
    assert deployment_name(any_store, None) == "docs"
    Journal(any_store, "chat").create(first_state("chat"))
    any_store.write("deployments/docs.json", b"{}")
    assert deployment_names(any_store) == ["chat", "docs"]
    with pytest.raises(UserError, match="2 deployments: chat, docs"):
        deployment_name(any_store, None)
    assert deployment_name(any_store, "docs") == "docs"
    with pytest.raises(UserError, match="did you mean docs"):
        deployment_name(any_store, "dosc")
    docs.change(lambda state: state.model_copy(update={"stopped": True}), by="", reason="")
    assert deployment_name(any_store, None) == "chat"
