"""Licences, own filters, toxicity and benchmarks, document by document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.store_local import LocalStore
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.index import build_index, load_index
from pipelines.curate.gates import Gates

QUESTION = "Mara hangs a wet towel on a clothesline on a sunny day and by evening the towel is dry."
ROW = {"id": "1", "source": "web", "path": "a", "licence": "MIT", "language": "en", "metadata": "{}"}


def keep_short(document: Any) -> bool:
    return len(document["text"]) < 500


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def gates(store: LocalStore, **settings: Any) -> Gates:
    config = CurateConfig.model_validate(settings)
    key = None
    if config.decontaminate is not None:
        row = {"suite": "arc_easy", "task": "arc_easy", "question": QUESTION, "choices": ["x"], "right": [0]}
        key = f"index-{config.decontaminate.ngram}"
        store.write(key, build_index([row], config.decontaminate).to_bytes())
    return Gates(config, store, key)


def refuse(made: Gates, text: str) -> str | None:
    return made.refuse(ROW, lambda: text, lambda _, measure: measure())


def test_nothing_is_asked_by_default(store: LocalStore) -> None:
    made = gates(store)
    assert refuse(made, f"{QUESTION} shit") is None
    assert not made.refuses_licence("unknown")
    assert made.contamination.checked == 0


def test_licences_are_left_out_only_where_that_is_asked_for(store: LocalStore) -> None:
    allow = {"allow": ["MIT"]}
    assert not gates(store, licences=allow).refuses_licence("GPL-3.0-only")
    dropping = gates(store, licences=allow | {"on_refusal": "drop"})
    assert dropping.refuses_licence("GPL-3.0-only")
    assert dropping.refuses_licence("unknown")
    assert not dropping.refuses_licence("GPL-3.0-only OR MIT")


def test_toxic_documents_go_above_the_threshold(store: LocalStore) -> None:
    text = "One two three four shit six seven eight nine ten."
    assert refuse(gates(store, audit={"drop_above": 100}), text) is None
    assert refuse(gates(store, audit={}), text) is None
    assert refuse(gates(store, audit={"drop_above": 99}), text) == "audit.toxic"


def test_contaminated_documents_are_counted(store: LocalStore) -> None:
    made = gates(store, decontaminate=True)
    text = f"So they ask: {QUESTION}"
    assert refuse(made, text) == "contaminated.arc_easy"
    assert refuse(made, "nothing of it") is None
    assert (made.contamination.checked, made.contamination.contaminated) == (2, 1)
    reporting = gates(store, decontaminate={"remove": False})
    assert refuse(reporting, text) is None
    assert reporting.contamination.contaminated == 1


def test_own_filters_come_first(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("own_gate")
    module.keep_short = keep_short  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_gate", module)
    made = gates(store, filters=["own_gate:keep_short"], decontaminate=True)
    assert refuse(made, QUESTION * 9) == "filter.keep_short"
    assert made.contamination.checked == 0
    refuse(made, QUESTION)
    assert made.contamination.checked == 1


def test_an_index_is_read_once_by_a_worker(store: LocalStore) -> None:
    gates(store, decontaminate={"ngram": 9})
    first = load_index(LocalStore(store.root), "index-9")  # a store that was pickled is another object
    store.delete("index-9")
    assert load_index(store, "index-9") is first
