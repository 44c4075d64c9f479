from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.corpus.table import decode, encode
from pipelines.curate.mix.apply import Mixed, measure, mix_table
from pipelines.curate.mix.config import MixConfig
from pipelines.curate.mix.plan import Sizes, SourcePlan, bins_of, check_sources, plan_mix, rollup
from pipelines.curate.signatures import withdraw


def documents(**sources: int) -> pa.Table:
    """So many documents of each source, of 1 to 9 bytes, always the same."""
    rows = [
        {"id": f"{name}-{number}", "text": "x" * (1 + number % 9), "source": name}
        for name, count in sources.items()
        for number in range(count)
    ]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())])
    )


def config(**values: Any) -> MixConfig:
    return MixConfig.model_validate(values)


def sizes_of(table: pa.Table, seed: int = 0) -> dict[str, Sizes]:
    sizes: dict[str, Sizes] = {}
    for name, (bins, counted) in measure(table, seed).items():
        sizes.setdefault(name, Sizes()).add(bins, counted)
    return sizes


def mix(table: pa.Table, **values: Any) -> tuple[Mixed, dict[str, SourcePlan]]:
    chosen = config(**values)
    plans = plan_mix(sizes_of(table, chosen.seed), chosen)
    return mix_table(table, plans, chosen.seed), plans


def used_bytes(table: pa.Table) -> Counter[str]:
    counted: Counter[str] = Counter()
    for row in table.to_pylist():
        counted[row["source"]] += len(row["text"])
    return counted


def test_nothing_is_said_nothing_is_done() -> None:
    table = documents(a=50, b=20)
    mixed, plans = mix(table)
    assert mixed.table.equals(table)
    assert mixed.left_out.num_rows == 0
    assert {plan.rounds for plan in plans.values()} == {1}
    assert config().does_nothing
    assert config(sources={"a": {"weight": 1, "max_repeats": 2}}).does_nothing
    for values in ({"temperature": 2}, {"sources": {"a": {"weight": 0.5}}}, {"sources": {"a": {"max_bytes": 5}}}):
        assert not config(**values).does_nothing


def test_weights_are_how_often_text_is_used() -> None:
    table = documents(a=2000, b=900, c=500)
    mixed, plans = mix(table, sources={"a": {"weight": 0.25}, "b": {"weight": 2.5}, "c": {"weight": 0}})
    before, after = used_bytes(table), used_bytes(mixed.table)
    assert after["a"] == pytest.approx(0.25 * before["a"], abs=10)
    assert after["b"] == pytest.approx(2.5 * before["b"], abs=10)
    assert after["c"] == 0
    assert (plans["b"].rounds, plans["c"].rounds, plans["c"].extra_bins) == (2, 0, 0)
    assert Counter(mixed.reasons) == {"mix.weight": mixed.left_out.num_rows}
    used = Counter(row["id"].partition(".")[0] for row in mixed.table.to_pylist() if row["source"] == "b")
    assert set(used.values()) == {2, 3}


def test_copies_have_ids_of_their_own() -> None:
    mixed, _ = mix(documents(a=2), sources={"a": {"weight": 3}})
    assert mixed.table["id"].to_pylist() == ["a-0", "a-0.2", "a-0.3", "a-1", "a-1.2", "a-1.3"]
    assert mixed.table["text"].to_pylist() == ["x"] * 3 + ["xx"] * 3


def test_temperature_takes_from_the_large_and_gives_to_the_small() -> None:
    table = documents(large=9000, small=1000)
    before = used_bytes(table)
    for temperature in (1.5, 3.0):
        mixed, plans = mix(table, temperature=temperature, max_repeats=50)
        after = used_bytes(mixed.table)
        raised = {name: (size / before.total()) ** (1 / temperature) for name, size in before.items()}
        for name in before:
            share = raised[name] / sum(raised.values())
            assert plans[name].share == pytest.approx(share)
            assert after[name] / after.total() == pytest.approx(share, abs=0.002)
        assert after.total() == pytest.approx(before.total(), rel=0.002)


def test_repetition_is_limited() -> None:
    mixed, plans = mix(documents(a=50), sources={"a": {"weight": 100}})
    assert (mixed.table.num_rows, plans["a"].limited_by) == (200, "max_repeats")
    mixed, _ = mix(documents(a=50), sources={"a": {"weight": 100, "max_repeats": 7}})
    assert mixed.table.num_rows == 350


@settings(max_examples=60, deadline=None)
@given(
    weight=st.floats(0.05, 3),
    most_documents=st.none() | st.integers(0, 250),
    most_bytes=st.none() | st.integers(0, 1200),
    count=st.integers(1, 100),
)
def test_caps_are_never_passed(weight: float, most_documents: int | None, most_bytes: int | None, count: int) -> None:
    table = documents(a=count, b=1)
    own = {"weight": weight, "max_documents": most_documents, "max_bytes": most_bytes}
    mixed, plans = mix(table, sources={"a": own})
    rows = [row for row in mixed.table.to_pylist() if row["source"] == "a"]
    assert most_documents is None or len(rows) <= most_documents
    assert most_bytes is None or sum(len(row["text"]) for row in rows) <= most_bytes
    if most_documents is not None and plans["a"].limited_by == "max_documents":
        assert len(rows) == most_documents  # these documents all have bins of their own
    assert len(set(mixed.table["id"].to_pylist())) == mixed.table.num_rows
    assert mixed.left_out.num_rows + len({row["id"].partition(".")[0] for row in rows}) == count


def test_a_cap_is_the_reason() -> None:
    mixed, _ = mix(documents(a=50), sources={"a": {"weight": 0.9, "max_documents": 10}})
    assert Counter(mixed.reasons) == {"mix.cap": 40}


def test_files_make_no_difference_and_the_seed_does() -> None:
    table = documents(a=300)
    values: dict[str, Any] = {"sources": {"a": {"weight": 0.5}}}
    chosen = config(**values)
    plans = plan_mix(sizes_of(table), chosen)
    whole = set(mix_table(table, plans, 0).table["id"].to_pylist())
    parts = [table.slice(200), table.slice(0, 70), table.slice(70, 130)]
    assert {each for part in parts for each in mix_table(part, plans, 0).table["id"].to_pylist()} == whole
    added: dict[str, Sizes] = {"a": Sizes()}
    for part in parts:
        added["a"].add(*measure(part, 0)["a"])
    assert plan_mix(added, chosen) == plans
    assert set(mix(table, seed=1, **values)[0].table["id"].to_pylist()) != whole


def test_more_weight_keeps_what_less_weight_kept() -> None:
    table = documents(a=400)
    some, more = (set(mix(table, sources={"a": {"weight": w}})[0].table["id"].to_pylist()) for w in (0.3, 0.6))
    assert some < more


def test_a_single_document_is_not_lost_to_rounding() -> None:
    assert mix(documents(a=1, b=9), sources={"a": {"weight": 0.7}})[0].left_out.num_rows == 0


def test_bins_are_even() -> None:
    bins = bins_of([f"document {number}" for number in range(20_000)], 0)
    quarters = np.bincount(bins >> 14, minlength=4)
    assert all(abs(count - 5000) < 5 * math.sqrt(5000) for count in quarters)


def test_the_account_adds_up() -> None:
    table = documents(a=200, b=100)
    values: dict[str, Any] = {"sources": {"a": {"weight": 0.5}, "b": {"weight": 2.5}}}
    mixed, plans = mix(table, **values)
    rows = {row["source"]: row for row in rollup(plans, sizes_of(table))}
    counted, text = Counter(mixed.table["source"].to_pylist()), used_bytes(mixed.table)
    for name, row in rows.items():
        assert row["documents"] + row["repeats"] == counted[name]
        assert row["bytes"] == text[name]
        assert row["share"] == text[name] / text.total()
    assert rows["a"]["documents_in"] - rows["a"]["documents"] == mixed.left_out.num_rows


def test_mistakes_are_named() -> None:
    corpus = Artifact(
        kind="Corpus", name="c", fingerprint="f", identity={}, attempt="a", files=[], details={"sources": {"web": {}}}
    )
    chosen = config(sources={"wbe": {"weight": 2}})
    with pytest.raises(UserError, match=r"wbe is no source of this corpus\n  sources here: web"):
        check_sources(chosen, corpus)
    check_sources(config(sources={"web": {"weight": 2}}), corpus)
    check_sources(chosen, corpus.model_copy(update={"details": {}}))
    assert mix(documents(web=3), sources={"gone": {"weight": 2}})[0].table.num_rows == 3
    with pytest.raises(UserError, match="leaves no training document"):
        mix(documents(web=3), sources={"web": {"weight": 0}})


def test_an_empty_part() -> None:
    mixed = mix_table(documents(), {}, 0)
    assert mixed.table.num_rows == mixed.left_out.num_rows == 0


def test_signatures_are_withdrawn_again_where_a_worker_died_after_it(store: LocalStore) -> None:
    store.write("table", encode(pa.table({"id": ["a", "b"]})))
    for _ in range(2):
        withdraw(store, "table", ["a"])
        assert decode(store.read("table")).column("id").to_pylist() == ["b"]
    for _ in range(2):
        withdraw(store, "table", ["a", "b"])
        assert not store.exists("table")
