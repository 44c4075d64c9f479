"""The funnel adds up - documents, characters and bytes, step by step - whatever the documents and the settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.artifact import Artifact, read_json
from cluster.errors import InternalError, UserError
from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.funnel import ORDER, Funnel
from pipelines.curate.tally import CLEANED, Flow, Tally

PIECES = st.sampled_from(
    [
        "the house of the king ",
        "and that was to be with us. ",
        "Das Haus steht am Rande der Stadt. ",
        "7 8 9 ",
        "...\n",
        "\n\n",
        "# a\n",
        "ü 東京 ",
        "- item\n",
        "write to ann@example.org ",
        "Read our privacy policy.\n",
        "you stupid idiot ",
        "lorem ipsum\r\n",
        "schÃ¶n\u200b ",
        "A line that is long enough to be found in other documents as well as here.\n",
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=1, max_size=8)
MAYBE = st.booleans()


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of every step, many of them off."""
    chosen: dict[str, Any] = {
        "normalise": draw(MAYBE),
        "language": draw(st.sampled_from([[], [], ["en"], {"en": 0.2, "de": 0.2}])),
        "repetition": draw(st.sampled_from([None, "gopher"])),
        "quality": draw(st.lists(st.sampled_from(["gopher", "c4", "fineweb"]), unique=True)),
        "gopher_quality": {"min_words": draw(st.sampled_from([None, 3])), "min_stop_words": None},
        "c4": {"min_sentences": draw(st.sampled_from([None, 2])), "terminal_punctuation": draw(MAYBE)},
        "redact": draw(st.sampled_from([[], ["email"]])),
        "dedup": {
            "exact": draw(MAYBE),
            "minhash": draw(st.sampled_from([None, {"ngram": 2, "bands": 8, "rows": 2, "words": "fast"}])),
            "repeated_text": draw(st.sampled_from([None, {"unit": "line", "min_characters": 10}])),
        },
        "validation_fraction": draw(st.sampled_from([0, 0.4])),
        "words": draw(st.sampled_from(["reference", "fast"])),
        "audit": draw(st.sampled_from([None, {"drop_above": 100}])),
        "mix": draw(st.sampled_from([{}, {"sources": {"notes": {"weight": 0.6}}}, {"max_repeats": 2}])),
    }
    if draw(MAYBE):
        chosen["mix"] = {"sources": {"notes": {"max_documents": draw(st.integers(1, 3)), "weight": 2}}}
    return chosen


def rows(store: Store, artifact: Artifact, folder: str) -> list[dict[str, Any]]:
    names = [each.path for each in artifact.files if each.path.startswith(f"{folder}/")]
    return [row for name in names for row in decode(store.read(artifact.key(name))).to_pylist()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, configs(), st.integers(1, 9))
def test_the_funnel_always_adds_up(
    make_corpus: Callable[..., Artifact],
    run_curate: Callable[..., Artifact],
    store: Store,
    texts: list[str],
    config: dict[str, Any],
    in_part: int,
) -> None:
    corpus = make_corpus([*texts, texts[0]], in_part)
    try:
        made = run_curate(corpus, **config)
    except UserError as error:
        assert "no document is left" in error.what or "leaves no training document" in error.what
        return
    funnel = read_json(store, made, "funnel.json")
    source = rows(store, corpus, "data")
    published = {
        row["id"].partition(".")[0]: row["text"]
        for split in ("train", "validation")
        for row in rows(store, made, split)
    }
    dropped = Counter(row["drop_reason"] for row in rows(store, made, "dropped"))
    assert funnel["documents_in"] == len(source) == len(published) + dropped.total()
    assert (funnel["kept"], Counter(funnel["dropped"])) == (len(published), dropped)
    for unit, size in (("characters", len), ("bytes", lambda text: len(text.encode())), ("words", words_of)):
        assert funnel[f"{unit}_in"] == sum(size(row["text"]) for row in source)
        assert funnel[f"{unit}_kept"] == sum(map(size, published.values()))
    documents, characters, weight = len(source), funnel["characters_in"], funnel["bytes_in"]
    for step in funnel["steps"]:
        assert step["documents"] == dropped[step["reason"]]
        documents, characters, weight = (
            documents - step["documents"],
            characters - step["characters"],
            weight - step["bytes"],
        )
        assert (step["documents_left"], step["characters_left"], step["bytes_left"]) == (documents, characters, weight)
    assert (documents, characters, weight) == (len(published), funnel["characters_kept"], funnel["bytes_kept"])
    assert {*dropped} <= {step["reason"] for step in funnel["steps"]}
    places = [ORDER.index(_step(step["reason"])) for step in funnel["steps"]]
    assert places == sorted(places)
    assert sum(funnel["languages_in"].values()) == len(source)
    assert sum(funnel["languages_kept"].values()) == len(published)


def _step(reason: str) -> str:
    return reason if reason in ORDER else reason.partition(".")[0]


def words_of(text: str) -> int:
    return len(text.split())


ROW = {"source": "notes", "licence": "MIT", "metadata": "{}"}


def tally(*texts: str) -> Tally:
    made = Tally()
    for text in texts:
        made.add({**ROW, "text": text})
    return made


def test_a_funnel_that_does_not_add_up_is_a_defect() -> None:
    whole, left = tally("ab", "ö"), tally("ab")
    flow = Flow()
    flow.add("empty", "ö")
    Funnel(2, {"empty": 1}, {"train": 1}, Counter(), whole, left, flow=flow).check()
    with pytest.raises(InternalError, match="does not add up: 3 documents in, 1 kept, 1 dropped"):
        Funnel(3, {"empty": 1}, {"train": 1}, Counter(), whole, left, flow=flow).check()
    with pytest.raises(InternalError, match="does not add up: 3 characters in, 2 kept, 0 dropped"):
        Funnel(2, {"empty": 1}, {"train": 1}, Counter(), whole, left).check()
    flow.add(CLEANED, "ö", instead="o")
    with pytest.raises(InternalError, match="does not add up: 4 bytes in, 2 kept, 3 dropped"):
        Funnel(2, {"empty": 1}, {"train": 1}, Counter(), whole, left, flow=flow).check()


def test_tallies_add_up_and_take_off() -> None:
    whole = tally("one two", "three", "", "x" * 64)
    assert (whole.words["all", "all"], whole.lengths) == (4, {3: 2, 0: 1, 7: 1})
    part = tally("three", "")
    whole.remove(part)
    assert +whole.documents == tally("one two", "x" * 64).documents
    whole.merge(part)
    assert +whole.words == +tally("one two", "three", "", "x" * 64).words
