from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.artifact import Artifact, read_json
from cluster.errors import UserError
from cluster.stage import identify
from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.classifier.examples import Examples, read_examples
from pipelines.curate.classifier.model import Classifier, score_bin
from pipelines.curate.classifier.training import measure
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.normalise import NormaliseConfig
from pipelines.curate.phrases import hash_grams, hash_words

GOOD_WORDS = "the theorem follows from the lemma because each finite group has a subgroup of that order"
BAD_WORDS = "click here to win cheap watches free casino bonus buy now limited offer call today"
SHARED = "and of the to in with for on it is"


def write(words: str, seed: int, length: int = 40) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice((words if chance.random() < 0.5 else SHARED).split()) for _ in range(length)) + "."


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Sixty good examples as files, sixty bad ones as lines."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    for number in range(60):
        (good / f"{number}.txt").write_text(write(GOOD_WORDS, number))
    lines = [json.dumps({"text": write(BAD_WORDS, 1000 + number)}) for number in range(60)]
    (bad / "spam.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return good, bad


def configured(folders: tuple[Path, Path], **settings: Any) -> ClassifierConfig:
    base = {"good": str(folders[0]), "bad": str(folders[1]), "buckets": 4096}
    return ClassifierConfig.model_validate({**base, **settings})


@pytest.mark.parametrize("features", ["hashed", "tfidf"])
def test_it_learns_to_tell_them_apart(folders: tuple[Path, Path], features: str) -> None:
    config = configured(folders, features=features)
    good, bad = read_examples(config, NormaliseConfig.model_validate({}))
    assert (len(good.train), len(good.held_out), len(bad.train), len(bad.held_out)) == (48, 12, 48, 12)
    classifier = Classifier.train(config, good.train, bad.train)
    quality = measure(classifier, good, bad)
    assert quality.accuracy == quality.precision == quality.recall == quality.f1 == 1.0
    assert classifier.score(write(GOOD_WORDS, 5000)) > 0.5 > classifier.score(write(BAD_WORDS, 5000))
    again = Classifier.from_bytes(config, classifier.to_bytes())
    texts = [write(GOOD_WORDS, 1), "", "🙂", write(BAD_WORDS, 2)]
    assert np.array_equal(again.scores(texts), classifier.scores(texts))
    assert classifier.scores([]).shape == (0,)


def brute_force_counts(texts: list[str], config: ClassifierConfig) -> np.ndarray:
    """float64[texts, buckets], n-gram by n-gram."""
    counts = np.zeros((len(texts), config.buckets))
    for row, text in enumerate(texts):
        words = re.findall("[a-z]+", text.lower())
        for length in (1, 2):
            for place in range(len(words) - length + 1):
                gram = hash_grams(hash_words(" ".join(words[place : place + length])), length)[0]
                counts[row, int(gram) % config.buckets] += 1
    return counts


@pytest.mark.parametrize("features", ["hashed", "tfidf"])
def test_scores_are_what_scikit_learn_says(folders: tuple[Path, Path], features: str) -> None:
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    config = configured(folders, features=features)
    good, bad = read_examples(config, None)
    peer = make_pipeline(
        TfidfTransformer(use_idf=features == "tfidf"), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    labels = [1] * len(good.train) + [0] * len(bad.train)
    peer.fit(brute_force_counts([*good.train, *bad.train], config), labels)
    texts = [*good.held_out, *bad.held_out]
    expected = peer.predict_proba(brute_force_counts(texts, config))[:, 1]
    assert np.allclose(Classifier.train(config, good.train, bad.train).scores(texts), expected, atol=1e-4)


def test_only_the_beginning_is_judged(folders: tuple[Path, Path]) -> None:
    config = configured(folders, characters=100)
    good, bad = read_examples(config, None)
    classifier = Classifier.train(config, good.train, bad.train)
    text = write(GOOD_WORDS, 1, 60)
    assert classifier.score(text[:100] + write(BAD_WORDS, 2)) == classifier.score(text)


class Fixed:
    """Scores texts by their first word."""

    def __init__(self, threshold: float | None) -> None:
        self.config = ClassifierConfig.model_validate({"good": "g", "bad": "b", "threshold": threshold})

    def scores(self, texts: list[str]) -> np.ndarray:
        return np.array([float(text) for text in texts])


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, (0.7, 0.75, 0.6, 2 / 3)), (None, (0.7, 0.75, 0.6, 2 / 3))])
def test_measures(threshold: float | None, expected: tuple[float, ...]) -> None:
    good = Examples([], ["0.9", "0.8", "0.5", "0.4", "0.1"], 1)
    bad = Examples([], ["0.6", "0.4", "0.3", "0.2", "0.1"], 2)
    quality = measure(Fixed(threshold), good, bad)  # type: ignore[arg-type]
    assert (quality.accuracy, quality.precision, quality.recall, quality.f1) == pytest.approx(expected)
    assert quality.unusable == 3


def test_a_classifier_that_takes_nothing_has_no_precision() -> None:
    quality = measure(Fixed(1.0), Examples([], ["0.9"], 0), Examples([], ["0.1"], 0))  # type: ignore[arg-type]
    assert (quality.accuracy, quality.precision, quality.recall, quality.f1) == (0.5, 0.0, 0.0, 0.0)


def test_examples_count_once_and_contradictions_and_empty_ones_go(folders: tuple[Path, Path]) -> None:
    good, _ = folders
    (good / "again.md").write_text(write(GOOD_WORDS, 0))
    (good / "contradiction.txt").write_text(write(BAD_WORDS, 1000))
    (good / "empty.txt").write_text(" \n")
    (good / "broken.txt").write_bytes(b"\xff\xfe\xfd")
    first, second = read_examples(configured(folders), None)
    assert len(first.train) + len(first.held_out) == 60
    assert len(second.train) + len(second.held_out) == 59
    assert (first.unusable, second.unusable) == (3, 1)


def test_sides_are_stable_when_examples_come(folders: tuple[Path, Path]) -> None:
    before, _ = read_examples(configured(folders, held_out=0.3), None)
    for number in range(100, 110):
        (folders[0] / f"{number}.txt").write_text(write(GOOD_WORDS, number))
    after, _ = read_examples(configured(folders, held_out=0.3), None)
    assert len(set(before.held_out) & set(after.train)) <= 3
    assert not set(after.held_out) & set(after.train)


def test_too_few_examples_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "a.txt").write_text("one good text")
    with pytest.raises(UserError, match="1 usable examples"):
        read_examples(configured((few, folders[1])), None)
    with pytest.raises(UserError, match="no such file"):
        identify(STAGE, CurateConfig(classifier=configured((tmp_path / "nowhere", folders[1]))), {})


def test_the_identity_is_the_content_not_the_place(folders: tuple[Path, Path], tmp_path: Path) -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return identify(STAGE, CurateConfig(classifier=configured(folders, **settings)), {}).config

    first = identity()
    (tmp_path / "elsewhere").mkdir()
    moved = folders[0].rename(tmp_path / "elsewhere" / "good")
    assert identity(good=str(moved)) == first
    (moved / "0.txt").write_text("something else")
    assert identity(good=str(moved)) != first
    assert str(tmp_path) not in json.dumps(first)
    assert identity(good=str(moved), threshold=0.4) != identity(good=str(moved))


@pytest.mark.parametrize(("score", "number"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.95, 9), (1.0, 9)])
def test_bars(score: float, number: int) -> None:
    assert score_bin(score) == number


def test_the_stage_keeps_scores_and_drops_below_the_threshold(
    folders: tuple[Path, Path], make_corpus: Callable[..., Artifact], run_curate: Callable[..., Artifact], store: Store
) -> None:
    texts = {f"good{n}": write(GOOD_WORDS, 7000 + n) for n in range(5)} | {
        f"bad{n}": write(BAD_WORDS, 8000 + n) for n in range(3)
    }
    off: dict[str, Any] = {"language": [], "repetition": None, "quality": []}
    settings = configured(folders).model_dump()

    def rows(made: Artifact, *names: str) -> list[dict[str, Any]]:
        paths = [each.path for each in made.files if each.path.startswith(names)]
        return [row for path in paths for row in decode(store.read(made.key(path))).to_pylist()]

    made = run_curate(make_corpus(texts), **off, classifier=settings)
    kept = rows(made, "train/", "validation/")
    assert {row["path"] for row in kept} == {name for name in texts if name.startswith("good")}
    assert all(0.5 <= row["quality_score"] <= 1 for row in kept)
    dropped = rows(made, "dropped/")
    assert [row["drop_reason"] for row in dropped] == ["classifier"] * 3
    assert all(0 <= row["quality_score"] < 0.5 for row in dropped)
    held_out = read_json(store, made, "classifier.json")
    assert held_out["f1"] == made.metrics["classifier.f1"] == 1.0
    assert (held_out["held_out_good"], held_out["held_out_bad"]) == (12, 12)
    page = store.read(made.key("report.html")).decode()
    assert "Quality classifier" in page
    assert "Trained on 48 good and 48 bad examples" in page
    everything = run_curate(make_corpus(texts), **off, classifier={**settings, "threshold": None})
    assert len(rows(everything, "train/", "validation/")) == len(texts)
    without = rows(run_curate(make_corpus(texts), **off), "train/", "validation/")
    assert {row["quality_score"] for row in without} == {None}
