"""Tag once, decide many times: other thresholds measure nothing again, and decide as a run from nothing would."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.corpus.table import decode
from pipelines.curate import signatures, stage
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.measured import document
from pipelines.curate.measured.groups import addresses

MakeCorpus = Callable[..., Artifact]

BASE: dict[str, Any] = {
    "quality": ["gopher", "c4", "fineweb"],
    "redact": ["email"],
    "audit": {"toxic": ["mist"], "drop_above": 900},
    "filters": ["tests_filter:has_vowels"],
    "dedup": {"minhash": {"words": "fast"}},
    "words": "fast",
}
OTHER_THRESHOLDS: dict[str, dict[str, Any]] = {
    "stricter": {"gopher_quality": {"min_words": 300}, "c4": {"min_sentences": 30}},
    "language": {"language": {"en": 0.999}},
    "toxicity": {"audit": {"toxic": ["mist"], "drop_above": 0}},
    "deduplication": {"dedup": {"minhash": {"words": "fast"}, "exact": False, "keep": "first"}},
    "mix": {"mix": {"sources": {"notes": {"max_documents": 3}}}},
    "licences": {"licences": {"allow": ["MIT"]}},
    "held out": {"validation_fraction": 0.5},
}


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def plain(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        return map(function, parts)

    monkeypatch.setattr(stage, "map_parts", plain)
    (tmp_path / "tests_filter.py").write_text(
        "def has_vowels(document):\n    return any(letter in document['text'] for letter in 'aeiou')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def texts() -> dict[str, str]:
    names = sorted(topics.topics)
    found = {name: topics.topics[name] for name in random.Random(4).sample(names, 14)}
    found |= {"copy": found[min(found)], "blank": " \n", "german": "Dies ist ein Text, der nicht englisch ist. " * 9}
    return found | {"mail": "Write to jane.doe@example.org. " + topics.topics["numeric-types"]}


def curate(store: Store, corpus: Artifact, changes: dict[str, Any], stream: io.StringIO | None = None) -> Artifact:
    config = CurateConfig.model_validate(BASE | changes)
    identity = identify(STAGE, config, {"corpus": corpus.fingerprint})
    with Progress(stream or io.StringIO(), live=False).track("curate") as tracker:
        return execute(STAGE, identity, config, {"corpus": corpus}, store, tracker).artifact


def contents(store: Store, made: Artifact) -> dict[str, bytes]:
    return {file.path: store.read(made.key(file.path)) for file in made.files}


def rows(store: Store, made: Artifact, folder: str) -> list[dict[str, Any]]:
    names = [each.path for each in made.files if each.path.startswith(f"{folder}/")]
    return [row for name in names for row in decode(store.read(made.key(name))).to_pylist()]


def afresh(store: Store, corpus: Artifact, changes: dict[str, Any], place: Path) -> dict[str, bytes]:
    """What the same settings give in a store that holds nothing but the corpus."""
    other = LocalStore(place)
    for file in store.files(f"{corpus.id}/"):
        other.write(file.key, store.read(file.key))
    made = curate(other, corpus, changes)
    assert made.details["reused"]["from"] is None
    return contents(other, made)


def forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cleans, judges, redacts, signs or surveys a document raises."""

    def measured(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(stage.Passes, "explain", lambda *_: {})  # looks again at the ten samples of each reason
    for name in ("normalise", "identify_language", "redact"):
        monkeypatch.setattr(document, name, measured)
    for name in ("pipelines.curate.quality_chain.Words", "pipelines.curate.quality_chain.clean"):
        monkeypatch.setattr(name, measured)
    monkeypatch.setattr("pipelines.curate.gates.apply_filters", measured)
    monkeypatch.setattr("pipelines.curate.audit.lexicon.Lexicon.toxicity", measured)
    monkeypatch.setattr(signatures, "content_hash", measured)
    monkeypatch.setattr("pipelines.curate.minhash.MinHasher.signatures", measured)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(name, marks=[] if name in ("stricter", "deduplication", "mix") else pytest.mark.slow)
        for name in OTHER_THRESHOLDS
    ],
)
def test_other_thresholds_measure_nothing_and_give_what_a_run_from_nothing_gives(
    what: str,
    texts: dict[str, str],
    make_corpus: MakeCorpus,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = make_corpus(texts, 5)
    first = curate(store, corpus, {})
    expected = afresh(store, corpus, OTHER_THRESHOLDS[what], tmp_path / "afresh")
    said = io.StringIO()
    made = curate(store, corpus, OTHER_THRESHOLDS[what], said)
    assert contents(store, made) == expected
    assert made.details["reused"]["from"] == first.id
    assert made.details["reused"]["measured"] == {}
    assert f"100.0% of what was asked had been measured for {first.id}" in said.getvalue()
    store.delete_all(made.id)
    forbid_measuring(monkeypatch)
    if what == "deduplication":  # others stay then, which the survey has not looked at
        monkeypatch.setattr("pipelines.curate.write.Surveyor.look", lambda *_: None)
    curate(store, corpus, OTHER_THRESHOLDS[what])


def test_looser_thresholds_measure_only_what_the_stricter_ones_had_left(
    texts: dict[str, str], make_corpus: MakeCorpus, store: Store, tmp_path: Path
) -> None:
    corpus = make_corpus(texts, 5)
    strict: dict[str, Any] = {"gopher_quality": {"min_words": 400}, "fineweb": {"max_line_ends": 0.2}}
    first = curate(store, corpus, strict)
    made = curate(store, corpus, {})
    assert contents(store, made) == afresh(store, corpus, {}, tmp_path / "afresh")
    reused = made.details["reused"]
    admitted = made.details["measured"]["passed"] - first.details["measured"]["passed"]
    assert admitted > 0
    assert reused["measured"]["signatures"] == reused["measured"]["texts"] == admitted
    assert reused["remembered"]["signatures"] == first.details["measured"]["passed"]
    assert "language" not in reused["measured"]
    assert "gopher_repetition" not in reused["measured"]
    # From then on the one that knows more is asked, though the stricter one is there too.
    later = curate(store, corpus, {"gopher_quality": {"min_words": 100}})
    assert later.details["reused"]["from"] == made.id


@pytest.mark.slow
@pytest.mark.timeout(1200)
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_thresholds_after_any_others(
    data: st.DataObject, texts: dict[str, str], make_corpus: MakeCorpus, store: Store, tmp_path_factory: Any
) -> None:
    corpus = make_corpus(dict(list(texts.items())[-10:]), 5)

    def thresholds() -> dict[str, Any]:
        return {
            "language": data.draw(st.sampled_from([["en"], [], {"en": 0.9}, ["de", "en"]])),
            "gopher_quality": {
                "min_words": data.draw(st.sampled_from([None, 0, 50, 500])),
                "min_stop_words": data.draw(st.sampled_from([2, 6])),
            },
            "gopher_repetition": {
                "max_duplicate_lines": data.draw(st.sampled_from([0.02, 0.3])),
                "symbols_are_words": data.draw(st.booleans()),
            },
            "c4": {"min_sentences": data.draw(st.sampled_from([None, 3, 10, 60]))},
            "fineweb": {"short_line_characters": data.draw(st.sampled_from([30, 60]))},
            "quality": data.draw(st.sampled_from([["gopher"], ["c4"], ["c4", "fineweb"], ["gopher", "c4"]])),
            "dedup": {"minhash": {"words": "fast", "bands": data.draw(st.sampled_from([14, 20]))}},
        }

    for _ in range(2):
        chosen = thresholds()
        expected = afresh(store, corpus, chosen, tmp_path_factory.mktemp("afresh"))
        assert contents(store, curate(store, corpus, chosen)) == expected


GROUPS = {"text", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "filters", "audit", "texts"}
GROUPS |= {"signatures"}


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        pytest.param({"normalise": {"mojibake": False}}, GROUPS, marks=pytest.mark.slow),
        ({"redact": ["email", "ip"]}, {"texts", "signatures"}),
        ({"dedup": {"minhash": {"words": "fast", "bands": 10}}}, {"signatures"}),
        ({"words": "reference"}, {"gopher_repetition", "gopher_quality", "c4", "fineweb"}),
        ({"c4": {"policy": False}}, {"c4", "fineweb", "filters", "audit", "texts", "signatures"}),
        pytest.param({"audit": {"toxic": ["rain"], "drop_above": 900}}, {"audit"}, marks=pytest.mark.slow),
        pytest.param(
            {"filters": [{"function": "tests_filter:has_vowels", "version": 2}]}, {"filters"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"gopher_repetition": {"max_top_ngram": {2: 0.2, 7: 0.9}}}, {"gopher_repetition"}, marks=pytest.mark.slow
        ),
        pytest.param({"dedup": {"minhash": {"words": "fast"}, "keep": "best_score"}}, set(), marks=pytest.mark.slow),
    ],
)
def test_another_way_to_measure_measures_what_depends_on_it(
    changes: dict[str, Any],
    anew: set[str],
    texts: dict[str, str],
    make_corpus: MakeCorpus,
    store: Store,
    tmp_path: Path,
) -> None:
    corpus = make_corpus(texts, 5)
    first = curate(store, corpus, {})
    made = curate(store, corpus, changes)
    assert set(made.details["reused"]["measured"]) == anew
    assert contents(store, made) == afresh(store, corpus, changes, tmp_path / "afresh")
    if "gopher_repetition" not in changes:
        own, other = made.details["measured"]["groups"], first.details["measured"]["groups"]
        assert {group for group in own if own[group] != other[group]} == anew


def test_scores_are_published_for_every_document(texts: dict[str, str], make_corpus: MakeCorpus, store: Store) -> None:
    corpus = make_corpus(texts, 5)
    made = curate(store, corpus, {})
    found = {row["id"]: row for row in rows(store, made, "scores")}
    assert found.keys() == {row["id"] for row in rows(store, corpus, "data")}
    dropped = {row["id"]: row["drop_reason"] for row in rows(store, made, "dropped")}
    for name, row in found.items():
        if row["drop_reason"] is not None:
            assert dropped[name] == row["drop_reason"]
        else:
            assert dropped.get(name, "duplicate.").startswith("duplicate.")
            assert row["gopher_quality.words"] >= 50
            assert row["fineweb.punctuated_lines"] >= 0.12
            assert row["filter"] == ""
    passed = {name for name, row in found.items() if row["drop_reason"] is None}
    assert {row["id"] for row in rows(store, made, "measured/texts")} == passed
    assert {row["id"] for row in rows(store, made, "measured/signatures")} == passed


def test_personal_data_that_was_redacted_is_kept_nowhere(
    texts: dict[str, str], make_corpus: MakeCorpus, store: Store
) -> None:
    made = curate(store, make_corpus(texts, 5), {"quality": [], "repetition": None})
    kept = [
        str(row) for folder in ("train", "validation", "measured/texts", "scores") for row in rows(store, made, folder)
    ]
    assert any("<EMAIL>" in row for row in kept)
    assert not any("jane.doe" in row for row in kept)


def test_a_survey_speaks_of_the_text_it_was_made_of(
    texts: dict[str, str], make_corpus: MakeCorpus, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another redaction one text is another one, and is the only one to be measured again."""
    corpus = make_corpus(texts, 5)
    lenient: dict[str, Any] = {"quality": [], "repetition": None}
    first = curate(store, corpus, lenient | {"redact": []})
    kept = {row["id"]: row for split in ("train", "validation") for row in rows(store, first, split)}
    assert {row["id"] for row in rows(store, first, "measured/survey")} == kept.keys()
    looked: list[str] = []
    identify_language = document.identify_language

    def watched(text: str) -> tuple[str, float]:
        looked.append(text)
        return identify_language(text)

    with monkeypatch.context() as patch:
        patch.setattr(document, "identify_language", watched)
        made = curate(store, corpus, lenient | {"redact": ["email"]})
    (mail,) = looked
    assert "<EMAIL>" in mail
    assert contents(store, made) == afresh(store, corpus, lenient | {"redact": ["email"]}, tmp_path / "afresh")


def test_what_stays_as_it_came_is_measured_once(
    texts: dict[str, str], make_corpus: MakeCorpus, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    identify_language = document.identify_language

    def watched(text: str) -> tuple[str, float]:
        looked.append(text)
        return identify_language(text)

    monkeypatch.setattr(document, "identify_language", watched)
    monkeypatch.setattr(stage.Passes, "explain", lambda *_: {})
    made = curate(store, make_corpus(texts, 5), {"mix": {"sources": {"notes": {"max_documents": 3}}}})
    assert any(row["drop_reason"] == "mix.cap" for row in rows(store, made, "dropped"))
    assert len(looked) == len(set(looked)) + 1  # `copy` says what another one says


def test_without_what_was_measured_the_scores_are_still_used(
    texts: dict[str, str], make_corpus: MakeCorpus, store: Store, tmp_path: Path
) -> None:
    corpus = make_corpus(texts, 5)
    first = curate(store, corpus, {"keep_measured": False})
    assert not [file.path for file in first.files if file.path.startswith("measured/")]
    changes = OTHER_THRESHOLDS["stricter"]
    made = curate(store, corpus, changes)
    assert set(made.details["reused"]["measured"]) == {"texts", "signatures"}
    assert contents(store, made) == afresh(store, corpus, changes, tmp_path / "afresh")


def test_another_corpus_or_force_measures_anew(texts: dict[str, str], make_corpus: MakeCorpus, store: Store) -> None:
    curate(store, make_corpus(texts, 5), {})
    assert curate(store, make_corpus(texts | {"new": "A text."}, 9), {}).details["reused"]["from"] is None


def test_licence_gate_and_thresholds_have_no_address() -> None:
    def of(**changes: Any) -> dict[str, str]:
        return addresses(CurateConfig.model_validate(BASE | changes), None, None)

    for changes in OTHER_THRESHOLDS.values():
        assert of(**changes) == of()
    changed = {group for group, address in of(language=[]).items() if of()[group] != address}
    assert changed == {"filters"}  # a filter sees the declared language then
    assert of(language=[], filters=[]) == of(filters=[])
