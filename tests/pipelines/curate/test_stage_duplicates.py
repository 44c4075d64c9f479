"""Deduplication inside the stage: earlier corpora, repeated text, signatures that are published."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from cluster.artifact import Artifact, ancestors, contributors, read_json
from cluster.errors import UserError
from cluster.store import Store
from pipelines.corpus.table import decode

MakeCorpus = Callable[..., Artifact]
RunCurate = Callable[..., Artifact]

PLAIN: dict[str, Any] = {"language": [], "repetition": None, "quality": [], "redact": [], "normalise": False}
FAST = {"minhash": {"words": "fast"}}
NOTICE = "All rights to everything that was ever said here are reserved for whoever said it before anybody else did."


def rows(store: Store, artifact: Artifact, folder: str) -> list[dict[str, Any]]:
    names = [each.path for each in artifact.files if each.path.startswith(f"{folder}/")]
    return [row for name in names for row in decode(store.read(artifact.key(name))).to_pylist()]


def story(seed: int, more: str = "") -> str:
    source = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
    return " ".join(source.choice(words) for _ in range(120)) + more


@pytest.fixture
def texts() -> dict[str, str]:
    """Some strangers, a near-duplicate, an exact one, and a notice that stands in three of them."""
    named = {f"own{i}": story(i) for i in range(6)}
    named |= {"near": story(0, " more"), "exact": story(1).upper()}
    return named | {name: f"{named[name]}\n\n{NOTICE}" for name in ("own2", "own3", "own4")} | {"notice": NOTICE}


def test_signatures_of_what_stays_are_published(
    texts: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    made = run_curate(make_corpus(texts), dedup=FAST, **PLAIN)
    kept = {row["id"] for folder in ("train", "validation") for row in rows(store, made, folder)}
    signed = rows(store, made, "signatures")
    assert {row["id"] for row in signed} == kept
    assert {len(row["bands"]) for row in signed} == {14 * 8}
    assert set(signed[0]) == {"id", "content", "bands"}


def test_documents_that_the_mixture_leaves_out_are_not_compared_with(
    make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    corpus = make_corpus([story(i) for i in range(12)], 3)
    made = run_curate(corpus, dedup=FAST, mix={"sources": {"notes": {"max_documents": 4}}}, **PLAIN)
    used = {row["id"] for folder in ("train", "validation") for row in rows(store, made, folder)}
    assert len(used) < 12
    assert {row["id"] for row in rows(store, made, "signatures")} == used


def test_what_was_curated_earlier_goes(
    texts: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    earlier = run_curate(make_corpus(texts), dedup=FAST, **PLAIN)
    ids = {row["path"]: row["id"] for folder in ("train", "validation") for row in rows(store, earlier, folder)}
    later = {"a": story(2, f"\n\n{NOTICE}"), "b": story(3, " changed"), "c": story(9), "d": story(9, " more")}
    corpus = make_corpus(later, 2, name="second")
    made = run_curate(corpus, dedup={**FAST, "against": [earlier.id]}, **PLAIN)
    dropped = {row["id"]: (row["drop_reason"], row["duplicate_of"]) for row in rows(store, made, "dropped")}
    new = {row["path"]: row["id"] for row in rows(store, corpus, "data")}
    assert {role: each.id for role, each in made.inputs.items()} == {"corpus": corpus.id, "compared with": earlier.id}
    assert [each.id for _, _, each in contributors(ancestors(store, made)) if each] == [made.id, corpus.id]
    assert dropped[new["a"]] == ("duplicate.earlier", ids["own2"])
    assert dropped[new["b"]] == ("duplicate.earlier", ids["own3"])
    assert dropped[new["c"]] == ("duplicate.near", new["d"])
    assert made.counts["documents"] == 1
    assert made.details["compared_with"] == {earlier.id: earlier.fingerprint}
    assert "curated earlier" in store.read(made.key("report.html")).decode()
    with pytest.raises(UserError, match="what is left stands in corpora curated earlier"):
        run_curate(make_corpus(texts, 3, name="third"), dedup={**FAST, "against": [earlier.id]}, **PLAIN)


def test_corpora_that_cannot_be_compared_with_are_refused(
    texts: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate
) -> None:
    corpus = make_corpus(texts)
    earlier = run_curate(corpus, dedup=FAST, **PLAIN)

    def against(reference: str, minhash: Any = FAST["minhash"]) -> None:
        run_curate(
            make_corpus({"x": story(20)}, name="new"), dedup={"minhash": minhash, "against": [reference]}, **PLAIN
        )

    with pytest.raises(UserError, match="no such artifact"):
        against("nothing-here")
    with pytest.raises(UserError, match=r"whichever is newest.*\n.*" + earlier.id):
        against(earlier.name)
    with pytest.raises(UserError, match="has no signatures"):
        against(corpus.id)
    with pytest.raises(UserError, match="were made with"):
        against(earlier.id, {"words": "fast", "bands": 20})
    against(earlier.id, None)


def test_repeated_paragraphs_are_taken_out_and_counted(
    texts: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    corpus = make_corpus(texts)
    made = run_curate(corpus, dedup={**FAST, "repeated_text": {"min_characters": 50}}, **PLAIN)
    kept = {row["path"]: row["text"] for folder in ("train", "validation") for row in rows(store, made, folder)}
    with_notice = sorted((row["id"], row["path"]) for row in rows(store, corpus, "data") if NOTICE in row["text"])
    first = with_notice[0][1]
    gone = {row["id"]: row["drop_reason"] for row in rows(store, made, "dropped")}
    for name, path in with_notice:
        if path == "notice" and path != first:
            assert gone[name] == "duplicate.text"
        else:
            assert (NOTICE in kept[path]) == (path == first)
    taken = sum(path not in (first, "notice") for _, path in with_notice) * len(NOTICE)
    assert read_json(store, made, "funnel.json")["repeated_characters"] == taken
    assert f"{taken:,} characters were taken out" in store.read(made.key("report.html")).decode()
