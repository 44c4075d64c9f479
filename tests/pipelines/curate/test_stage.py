from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pydoc_data import topics
from typing import Any

import pytest

from cluster.artifact import Artifact, read_json
from cluster.config import parse_document, validate
from cluster.errors import UserError
from cluster.stage import identify
from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.samples.excerpt import CHARACTERS

MakeCorpus = Callable[..., Artifact]
RunCurate = Callable[..., Artifact]


def rows(store: Store, artifact: Artifact, folder: str) -> list[dict[str, Any]]:
    names = [each.path for each in artifact.files if each.path.startswith(f"{folder}/")]
    return [row for name in names for row in decode(store.read(artifact.key(name))).to_pylist()]


@pytest.fixture(scope="module")
def chapters() -> dict[str, str]:
    """Twelve chapters of the language reference that pass every rule."""
    names = [
        "assert",
        "with",
        "import",
        "global",
        "class",
        "try",
        "lambda",
        "del",
        "for",
        "return",
        "exprlists",
        "naming",
    ]
    return {name: topics.topics[name] for name in names}


def test_planted_faults_are_found(
    chapters: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    first, second = "import", "with"
    corpus = make_corpus(
        {
            **chapters,
            "exact": chapters[first].replace(",", ""),
            "near": chapters[second] + "\nOne more sentence that nobody ever spoke.",
            "letter": "Write to john.doe@example.org. " + topics.topics["numeric-types"],
            "short": "Far too short.",
            "empty": " \n\t",
            "german": "Dies ist ein deutscher Text, der nicht bleiben soll, weil er nicht englisch ist. " * 3,
            "personal": "Write to jane.doe@example.org or 8.8.8.8. " + topics.topics["comparisons"],
        }
    )
    made = run_curate(corpus)
    dropped = {row["id"]: row for row in rows(store, made, "dropped")}
    ids = {row["path"]: row["id"] for row in rows(store, corpus, "data")}
    assert dropped[ids["exact"]]["drop_reason"] == "duplicate.exact"
    assert dropped[ids["exact"]]["duplicate_of"] == ids[first]
    assert (dropped[ids[second]]["drop_reason"], dropped[ids[second]]["duplicate_of"]) == (
        "duplicate.near",
        ids["near"],
    )
    assert dropped[ids["german"]]["drop_reason"] == "language"
    assert dropped[ids["empty"]]["drop_reason"] == "empty"
    assert dropped[ids["short"]]["duplicate_of"] is None
    kept = {row["path"]: row for folder in ("train", "validation") for row in rows(store, made, folder)}
    assert "Write to <EMAIL> or <IP>." in kept["personal"]["text"]
    assert set(kept[first]) == {
        *("id", "text", "source", "path", "licence", "language", "metadata", "quality_score"),
    }
    assert kept["near"]["language"] == "en"
    funnel = read_json(store, made, "funnel.json")
    assert funnel["documents_in"] == len(ids) == funnel["kept"] + sum(funnel["dropped"].values())
    assert funnel["kept"] == len(kept) == made.counts["documents"]
    assert funnel["dropped"] == Counter(row["drop_reason"] for row in dropped.values())
    assert funnel["redacted"] == {"email": 2, "ip": 1}
    assert funnel["redacted_by_source"] == {"notes": {"email": 2, "ip": 1}}
    assert made.licences == {"MIT": len(kept)}
    assert not any(each.path.startswith("resume") for each in made.files)
    page = store.read(made.key("report.html")).decode()
    assert "duplicate.near" in page
    assert "Far too short." in page
    assert "<td>another language, or too uncertain</td>" in page


def test_samples_on_the_page_are_redacted_whatever_the_recipe_keeps(
    chapters: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    """Also an address that lies across the place where a sample is cut."""
    writer = "Ask jane.doe@example.org at 8.8.8.8. "
    across = "x" * (CHARACTERS - len("jane.doe@ex") - 1) + " jane.doe@example.org"
    twice = writer + chapters["with"]
    made = run_curate(make_corpus({**chapters, "short": writer, "across": across, "a": twice, "b": twice}), redact=[])
    page = store.read(made.key("report.html")).decode()
    assert "Ask &lt;EMAIL&gt; at &lt;IP&gt;." in page
    assert "duplicate.exact" in page
    assert not re.search(r"jane|example|8\.8\.8\.8", page)
    assert any(writer in row["text"] for row in rows(store, made, "train") + rows(store, made, "validation"))


def test_thresholds_of_rules_that_are_off_are_not_part_of_the_identity() -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return identify(STAGE, CurateConfig.model_validate(settings), {}).config

    off: dict[str, Any] = {"language": [], "repetition": None, "quality": []}
    thresholds: dict[str, Any] = {
        "language_min_confidence": 0.9,
        "gopher_repetition": {"max_duplicate_lines": 0.9},
        "gopher_quality": {"min_words": 1},
        "c4": {"min_sentences": 1},
    }
    assert identity(**off) == identity(**off, **thresholds)
    for name, value in thresholds.items():
        assert identity() != identity(**{name: value})
    assert identity(quality=["gopher"], c4=thresholds["c4"]) == identity(quality=["gopher"])
    assert identity(quality=["gopher"], gopher_quality={"min_words": 1}) != identity(quality=["gopher"])


def test_parts_do_not_change_what_is_kept(
    chapters: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    texts = {**chapters, "again": next(iter(chapters.values()))}
    seen = []
    for in_part in (1, 5, 100):
        made = run_curate(make_corpus(texts, in_part))
        seen.append(
            {folder: sorted(map(str, rows(store, made, folder))) for folder in ("train", "validation", "dropped")}
        )
    assert seen[0] == seen[1] == seen[2]


def test_rows_are_sorted_by_id(
    chapters: dict[str, str], make_corpus: MakeCorpus, run_curate: RunCurate, store: Store
) -> None:
    ids = [row["id"] for row in rows(store, run_curate(make_corpus(chapters, 100)), "train")]
    assert ids == sorted(ids)


def test_every_step_can_be_switched_off(make_corpus: MakeCorpus, run_curate: RunCurate, store: Store) -> None:
    texts = ["x", "x", "Hallo  \r\n", "me@example.org"]
    made = run_curate(
        make_corpus(texts),
        normalise=False,
        language=[],
        repetition=None,
        quality=[],
        redact=[],
        dedup={"exact": False, "minhash": None},
        validation_fraction=0,
    )
    assert sorted(row["text"] for row in rows(store, made, "train")) == sorted(texts)
    assert rows(store, made, "train")[0]["language"] is None


def test_documents_of_symbols_are_compared_as_text(make_corpus: MakeCorpus, run_curate: RunCurate) -> None:
    made = run_curate(make_corpus(["!!!", "???", "!!!"]), language=[], repetition=None, quality=[])
    assert made.counts["dropped.duplicate.exact"] == 1
    assert made.counts["documents"] == 2


def test_an_empty_result_names_the_rule(make_corpus: MakeCorpus, run_curate: RunCurate) -> None:
    corpus = make_corpus(["A few words of English.", "Some more words of plain English.", ""])
    with pytest.raises(UserError, match=r"no document is left: gopher_quality\.min_words dropped 2 of 3"):
        run_curate(corpus)


def test_an_unknown_language_is_refused_before_any_work(make_corpus: MakeCorpus, run_curate: RunCurate) -> None:
    with pytest.raises(UserError, match="known: "):
        run_curate(make_corpus(["x"]), language=["xx"])


def test_a_misspelt_threshold_is_named() -> None:
    document = parse_document("gopher_quality:\n  min_word: 3\n", "r.yaml")
    with pytest.raises(UserError, match=r"r\.yaml:2: gopher_quality\.min_word: unknown key; did you mean min_words\?"):
        validate(CurateConfig, document)
