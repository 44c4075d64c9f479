"""Deduplication over parts against a plain version in one process, and that nothing about the work shows in it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.curate.config import DedupConfig, MinHashConfig, RepeatedTextConfig
from pipelines.curate.decisions import EARLIER, EXACT, NEAR
from pipelines.curate.dedup import Deduplication, Found
from pipelines.curate.minhash import MinHasher, content_hash
from pipelines.curate.repeated_text import without
from pipelines.curate.signatures import Signed, publish, sign
from pipelines.curate.split import side

FAST: dict[str, Any] = {"minhash": {"words": "fast"}}
HASHER = MinHasher(MinHashConfig(words="fast"))
Told = dict[str, tuple[str, str | None]]


def row(name: str, text: str, **metadata: Any) -> dict[str, Any]:
    import json

    return {"id": name, "text": text, "metadata": json.dumps(metadata)}


@dataclass
class Done:
    """What was decided: id -> reason and the id that stays; and the passages to remove, as id -> numbers."""

    told: Told
    found: Found
    repeats: dict[str, frozenset[int]]
    signed: list[Signed]


def deduplicate(
    store: Store,
    parts: Sequence[Sequence[Mapping[str, Any]]],
    earlier: Sequence[str] = (),
    prefix: str = "work",
    **settings: Any,
) -> Done:
    """Run every step; the workers finish in an order that looks random."""
    config = DedupConfig.model_validate(FAST | settings)
    order = random.Random(len(parts))

    def shuffled(step: str, function: Callable[[Any], Any], given: Sequence[Any]) -> Iterator[Any]:
        return map(function, order.sample(list(given), len(given)))

    signed, where = [], {}
    for number, rows in enumerate(parts):
        positions = sorted(range(len(rows)), key=lambda position: rows[position]["id"])
        ordered = [rows[position] for position in positions]
        signed.append(sign(ordered, positions, number, config, store, f"{prefix}/{number:05d}.parquet"))
        where.update({(number, at): each["id"] for at, each in enumerate(ordered)})
        table = [{"id": each["id"], "text": each["text"]} for each in ordered]
        _write_texts(store, f"{prefix}/{number:05d}.text", table)
    steps = Deduplication(config, store, prefix, shuffled, signed, earlier)
    found = steps.find_repeats([f"{prefix}/{number:05d}.text" for number in range(len(parts))], steps.find())
    told: Told = {}
    repeats = {}
    for number in range(len(parts)):
        for at, each in found.decisions.load(store, number).items():
            told[where[number, at]] = (each.reason, each.duplicate_of)
        for at, numbers in found.decisions.load_repeats(store, number).items():
            repeats[where[number, at]] = numbers
    assert found.duplicates == len(told)
    assert sum(found.largest.values()) <= len(told)
    return Done(told, found, repeats, signed)


def _write_texts(store: Store, key: str, rows: list[dict[str, str]]) -> None:
    import pyarrow as pa

    from pipelines.corpus.table import encode

    store.write(key, encode(pa.Table.from_pylist(rows, schema=pa.schema([("id", pa.string()), ("text", pa.string())]))))


def plain(rows: Sequence[Mapping[str, Any]], exact: bool = True, near: bool = True) -> Told:
    """What should be decided, with everything in one process: the longest stays, then the smallest id."""
    ordered = sorted(rows, key=lambda each: (-len(each["text"]), each["id"]))
    contents = [content_hash(each["text"]) for each in ordered]
    signatures, has = HASHER.signatures([each["text"] for each in ordered])
    bands = HASHER.band_keys(signatures)
    label = list(range(len(ordered)))

    def root(node: int) -> int:
        while label[node] != node:
            node = label[node]
        return node

    for one, other in combinations(range(len(ordered)), 2):
        same = exact and contents[one] == contents[other]
        if same or (near and has[one] and has[other] and (bands[one] == bands[other]).any()):
            low, high = sorted((root(one), root(other)))
            label[high] = low
    told: Told = {}
    for at, each in enumerate(ordered):
        if root(at) != at:
            reason = EXACT if exact and contents[at] in contents[:at] else NEAR
            told[each["id"]] = (reason, ordered[root(at)]["id"])
    return told


VOCABULARY = [f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in "lmnrst"]


def some_words(source: random.Random, count: int) -> list[str]:
    return [source.choice(VOCABULARY) for _ in range(count)]


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """A chain of near-duplicates, copies, strangers, and texts without words."""
    source = random.Random(3)
    words = [some_words(source, 200)]
    for _ in range(40):
        words.append(words[-1][4:] + some_words(source, 4))
    words += [some_words(source, source.randrange(1, 200)) for _ in range(60)]
    words += source.sample(words, 30)
    texts = [" ".join(each) for each in words] + ["!!!", "???", "!!!", ""]
    source.shuffle(texts)
    return [row(f"{number:024x}", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(("in_part", "memory_bytes"), [(1000, 64 << 20), (7, 64 << 20), (50, 4096), (3, 8192)])
def test_equal_to_one_process_for_any_layout(
    documents: list[dict[str, Any]], in_part: int, memory_bytes: int, store: Store
) -> None:
    parts = [documents[at : at + in_part] for at in range(0, len(documents), in_part)]
    done = deduplicate(store, parts, memory_bytes=memory_bytes)
    expected = plain(documents)
    assert done.told == expected
    assert {reason for reason, _ in expected.values()} == {EXACT, NEAR}
    sizes = Counter(keeper for _, keeper in expected.values())
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], str(item[0])))[:10]
    assert list(done.found.largest.items()) == ordered
    assert done.found.sizes == Counter((removed + 1).bit_length() for removed in sizes.values())


@pytest.mark.parametrize(("exact", "near"), [(True, False), (False, True), (False, False)])
def test_each_kind_can_be_switched_off(documents: list[dict[str, Any]], exact: bool, near: bool, store: Store) -> None:
    minhash = FAST["minhash"] if near else None
    done = deduplicate(store, [documents[:50], documents[50:]], exact=exact, minhash=minhash)
    assert done.told == plain(documents, exact, near)


TEXTS = st.lists(
    st.tuples(st.sampled_from(["a b c d e f g", "a b c d e f h", "h i j k l m", "x", "X!", "...", ""]), st.booleans()),
    min_size=1,
    max_size=14,
)


@settings(max_examples=10, deadline=None)
@given(TEXTS, st.randoms(use_true_random=False), st.integers(1, 6), st.sampled_from([4096, 1 << 20]))
def test_any_order_and_layout_give_the_same(
    texts: list[tuple[str, bool]], order: random.Random, in_part: int, memory_bytes: int
) -> None:
    rows = [row(f"{number:03d}", text + " " * longer) for number, (text, longer) in enumerate(texts)]
    expected = plain(rows)
    order.shuffle(rows)
    parts = [rows[at : at + in_part] for at in range(0, len(rows), in_part)]
    with tempfile.TemporaryDirectory() as folder:
        done = deduplicate(LocalStore(Path(folder)), parts, memory_bytes=memory_bytes)
    assert done.told == expected
    kept = {each["id"] for each in rows} - set(done.told)
    assert {keeper for _, keeper in done.told.values()} <= kept


def test_files_are_the_same_bytes_when_work_is_done_again(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path / name) for name in ("one", "other")]
    for store in stores:
        for _ in range(2):  # over what a killed try left
            deduplicate(store, [documents[:70], documents[70:]], memory_bytes=4096)
    one, other = ({file.key: store.read(file.key) for file in store.files()} for store in stores)
    assert one == other


def family(source: random.Random, ids: str, **metadata: list[Any]) -> list[dict[str, Any]]:
    """Near-duplicates of each other, the later the longer."""
    words = some_words(source, 150)
    return [
        row(name, " ".join(words + ["more"] * (at + 1)), **{key: values[at] for key, values in metadata.items()})
        for at, name in enumerate(ids)
    ]


def test_keep_policies(store: Store) -> None:
    family_rows = family(random.Random(1), "bdac", score=[0.5, 0.9, 0.9, None])
    for keep, expected in (("longest", "c"), ("first", "b"), ("best_score", "a")):
        done = deduplicate(store, [family_rows[:1], family_rows[1:]], prefix=keep, keep=keep, score="score")
        assert done.told == {name: (NEAR, expected) for name in "abcd" if name != expected}, keep


def test_scores_that_are_none_come_last(store: Store) -> None:
    values = [float("nan"), True, "9", float("inf"), -5.0]
    rows = family(random.Random(2), "abcde", quality_score=values)
    rows[0]["quality_score"] = None  # the column where no classifier judged
    assert set(deduplicate(store, [rows], keep="best_score").told.values()) == {(NEAR, "e")}
    for each in rows:
        each["quality_score"] = {"b": 3.0}.get(each["id"], 0.0)  # a column comes before metadata
    assert set(deduplicate(store, [rows], prefix="again", keep="best_score").told.values()) == {(NEAR, "b")}


def test_against_a_corpus_curated_earlier(store: Store) -> None:
    source = random.Random(4)
    old, new = family(source, "qr"), family(source, "st")
    stranger = row("u", " ".join(some_words(source, 100)))
    first = deduplicate(store, [[old[0], stranger], [row("x", "!!!")]], prefix="earlier")
    assert not first.told
    tables = []
    for number, signed in enumerate(first.signed):
        tables.append(f"published/{number}.parquet")
        publish(store, signed.table_key, [0, 1] if number == 0 else [0], tables[-1])
    rows = [old[1], *new, row("y", "!!!"), row("v", stranger["text"].upper()), row("w", stranger["text"])]
    done = deduplicate(store, [rows[:2], rows[2:]], tables, prefix="later")
    assert done.told == {
        "r": (EARLIER, "q"),
        "s": (NEAR, "t"),
        "v": (EARLIER, "u"),
        "w": (EARLIER, "u"),
        "y": (EARLIER, "x"),
    }
    for memory_bytes in (4096, 1 << 20):
        again = deduplicate(store, [rows], tables, prefix=f"again{memory_bytes}", memory_bytes=memory_bytes)
        assert again.told == done.told
    apart = deduplicate(store, [[stranger]], tables, prefix="self")
    assert apart.told == {"u": (EARLIER, "u")}


def test_what_is_alike_among_earlier_corpora_only_is_no_work(store: Store) -> None:
    twins = family(random.Random(6), "qr")
    tables = []
    for each in twins:
        (signed,) = deduplicate(store, [[each, row(f"{each['id']}x", "!!!")]], prefix=f"earlier-{each['id']}").signed
        tables.append(f"published/{each['id']}.parquet")
        publish(store, signed.table_key, [0, 1], tables[-1])
    done = deduplicate(store, [[row("s", story := "a b c d e f g h"), row("t", "i j k l m n")]], tables, prefix="later")
    assert (done.told, done.found.rounds) == ({}, 0)
    again = deduplicate(store, [[row("s", story), row("u", twins[0]["text"])]], [*tables, tables[0]], prefix="again")
    assert again.told == {"u": (EARLIER, "q")}


def test_repeated_paragraphs_stay_in_the_smallest_id(store: Store) -> None:
    long, other = "The same legal notice. " * 8, "Something else that is long enough to count. " * 4
    rows = [
        row("c", f"First of c.\n\n{long}\n\n{other}"),
        row("a", f"First of a.\n\n  {long.strip()}\n\n{long}\n\nEnd of a."),
        row("b", f"{other}\n\nshort\n\nshort"),
    ]
    for memory_bytes in (4096, 1 << 20):
        done = deduplicate(
            store, [rows[:2], rows[2:]], prefix=str(memory_bytes), memory_bytes=memory_bytes, repeated_text={}
        )
        assert not done.told
        assert done.repeats == {"a": {2}, "c": {1, 2}}
    config = RepeatedTextConfig.model_validate({})
    assert without(rows[0]["text"], done.repeats["c"], config) == ("First of c.", len(long) + len(other))
    assert without("a\n\n\nb", frozenset(), config) == ("a\n\n\nb", 0)


def test_repeated_lines(store: Store) -> None:
    rows = [
        row("a", "Cookie notice here\nText of a\nCookie notice here"),
        row("b", "Text of b\nCookie notice here\nend"),
    ]
    done = deduplicate(store, [rows], repeated_text={"unit": "line", "min_characters": 12})
    assert done.repeats == {"a": {2}, "b": {1}}
    config = RepeatedTextConfig(unit="line", min_characters=12)
    assert without(rows[1]["text"], done.repeats["b"], config) == ("Text of b\nend", 18)


def test_passages_of_duplicates_do_not_count(store: Store) -> None:
    text = "\n\n".join(" ".join(some_words(random.Random(seed), 75)) for seed in (9, 10))
    done = deduplicate(store, [[row("a", text), row("b", text + " more")]], repeated_text={})
    assert done.told == {"a": (NEAR, "b")}
    assert done.repeats == {}


def test_no_documents_at_all(store: Store) -> None:
    for parts in ([[], []], []):
        assert deduplicate(store, parts, prefix=str(len(parts)), repeated_text={}).told == {}


def test_the_split_is_stable_and_of_the_right_size() -> None:
    contents = [content_hash(str(i)) for i in range(4000)]
    held_out = [content for content in contents if side(content, 0.05) == "validation"]
    assert 150 < len(held_out) < 250
    assert all(side(content, 0.2) == "validation" for content in held_out)
    assert {side(content, 0.0) for content in contents} == {"train"}


def test_ids_of_any_length_and_script(store: Store) -> None:
    rows = family(random.Random(5), "äzb")
    rows[2]["id"] = "ö" * 40
    done = deduplicate(store, [rows[:1], rows[1:]])
    assert done.told == {"ä": (NEAR, "ö" * 40), "z": (NEAR, "ö" * 40)}
    assert np.dtype("S80").itemsize == max(each.id_bytes for each in done.signed)
