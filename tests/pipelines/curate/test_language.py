from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.config import parse_document, validate
from cluster.errors import UserError
from cluster.stage import identify
from cluster.store import Store
from pipelines.corpus.table import decode
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.language import check_languages, identify_language

TEXTS = {
    "en": "The committee will meet again on Thursday to decide about the new library and its opening hours.",
    "de": "Der Ausschuss trifft sich am Donnerstag wieder, um über die neue Bücherei und ihre Zeiten zu entscheiden.",
    "fr": "Le comité se réunira de nouveau jeudi pour décider de la nouvelle bibliothèque et de ses horaires.",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_told_apart(code: str) -> None:
    found, confidence = identify_language(TEXTS[code])
    assert found == code
    assert 0.9 < confidence <= 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"language": ["de", "en", "de"]}, {"en": 0.5, "de": 0.5, "fr": None}),
        ({"language": ["en"], "language_min_confidence": 0.8}, {"en": 0.8, "de": None}),
        ({"language": {"en": 0.65, "de": 0.4}, "language_min_confidence": 0.9}, {"en": 0.65, "de": 0.4, "fr": None}),
    ],
)
def test_each_language_has_its_own_least_probability(
    settings: dict[str, Any], expected: dict[str, float | None]
) -> None:
    config = CurateConfig.model_validate(settings)
    assert {code: config.least_confidence(code) for code in expected} == expected


@pytest.mark.parametrize("languages", ["language: {en: 1.5}", "language: {en: -1}", "language: {en: much}"])
def test_a_threshold_is_a_probability(languages: str) -> None:
    with pytest.raises(UserError, match="language"):
        validate(CurateConfig, parse_document(languages, "recipe.yaml"))


def test_unknown_languages_are_refused_in_both_forms() -> None:
    check_languages({"en": 0.5})
    for languages in (["en", "xx"], {"en": 0.5, "xx": 0.1}):
        with pytest.raises(UserError, match="'xx' is no language"):
            check_languages(languages)


def test_the_order_and_an_unused_threshold_are_not_part_of_the_identity() -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return identify(STAGE, CurateConfig.model_validate(settings), {}).config

    own = identity(language={"de": 0.5, "en": 0.6})
    assert own == identity(language={"en": 0.6, "de": 0.5}, language_min_confidence=0.9)
    assert own != identity(language={"en": 0.7, "de": 0.5})


def test_documents_below_their_languages_threshold_go(
    make_corpus: Callable[..., Artifact], run_curate: Callable[..., Artifact], store: Store
) -> None:
    mixed = "Donnerstag library Ausschuss"
    code, confidence = identify_language(mixed + "\n")
    assert 0.2 < confidence < 0.999999, "a text that the model is not sure about"
    other = next(each for each in TEXTS if each != code)

    def kept(least: float) -> set[str]:
        made = run_curate(
            make_corpus({**TEXTS, "mixed": mixed}), language={code: least, other: 0.5}, repetition=None, quality=[]
        )
        names = [each.path for each in made.files if each.path.startswith(("train/", "validation/"))]
        return {row["path"] for name in names for row in decode(store.read(made.key(name))).to_pylist()}

    assert kept(confidence - 0.001) == {code, other, "mixed"} & {*TEXTS, "mixed"}
    assert kept(min(confidence + 0.0000001, 1)) == {code, other} & {*TEXTS}
