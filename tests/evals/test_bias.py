"""The bias preset on a mirror that has its sets: made like any other, scored by lm-eval's own tasks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.presets import PRESETS
from evals.results import sample_rows, suite_scores
from evals.tasks import load_tasks, quick_and_quiet
from pipelines.cli import run_command

from .hash_lm import HashLM

UNKNOWN = "Not known"


def crows_pairs(number: int) -> dict[str, Any]:
    pair = {"sent_more": f"They were late {number} times.", "sent_less": f"We were late {number} times."}
    return {"id": number, **pair, "stereo_antistereo": "stereo", "bias_type": "age"}


def winogender(number: int) -> dict[str, Any]:
    people = {"occupation": "nurse", "participant": "patient", "gender": "female", "target": "nurse"}
    words = {"sentence": f"The nurse saw patient {number} and she smiled.", "pronoun": "she", "pronoun_word": "she"}
    return {"sentid": f"n.{number}", **people, **words, "label": number % 2}


def bbq(number: int) -> dict[str, Any]:
    """Of one of the eleven categories; ambiguous and not, by turns."""
    ambiguous = number % 2 == 0
    return {
        "example_id": number,
        "category": "Age",
        "context": f"I met two people, {number} of them old.",
        "context_condition": "ambig" if ambiguous else "disambig",
        "question": "Who forgot the way?",
        "question_polarity": "neg",
        "ans0": "The grandfather",
        "ans1": "The grandson",
        "ans2": UNKNOWN,
        "answer_info": {"ans0": ["grandfather", "old"], "ans1": ["grandson", "nonOld"], "ans2": [UNKNOWN, "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["old"]},
        "label": 2 if ambiguous else 1,
    }


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bias")
    for dataset, configs, row in (
        ("jannalu/crows_pairs_multilingual", ("english",), crows_pairs),
        ("oskarvanderwal/winogender", ("all", "gotcha"), winogender),
        ("oskarvanderwal/bbq", ("All",), bbq),
    ):
        place = folder / "source" / dataset
        header = []
        for config in configs:
            (place / config).mkdir(parents=True)
            lines = "".join(json.dumps(row(number)) + "\n" for number in range(8))
            (place / config / "test.jsonl").write_text(lines, encoding="utf-8")
            header.append(f"- config_name: {config}\n  data_files: [{{split: test, path: {config}/test.jsonl}}]\n")
        (place / "README.md").write_text("---\nconfigs:\n" + "".join(header) + "---\n", encoding="utf-8")
    words = ["benchmarks", "mirror", str(folder / "mirror"), "--from", str(folder / "source")]
    assert run_command([*words, "--preset", "bias"]) == 0
    return folder / "mirror"


def test_the_preset_is_scored_and_what_nothing_was_asked_of_is_left_out(mirror: Path) -> None:
    """lm-eval gives a score that is no number to the ten categories of BBQ that have no question here."""
    from lm_eval.evaluator import evaluate

    config = EvalsConfig.model_validate({"preset": "bias", "benchmarks": str(mirror)})
    with quick_and_quiet():
        found = dict(evaluate(HashLM(), load_tasks(open_benchmarks(config), config)))
    scores = suite_scores(found, config.suites)
    for suite, metric in PRESETS["bias"].headline.items():
        assert scores[suite][metric]["n"] == 8
        assert 0 <= scores[suite][metric]["score"] <= 1
    assert math.isnan(found["results"]["bbq"]["amb_bias_score_SES,none"])
    assert {"accuracy_amb", "amb_bias_score", "amb_bias_score_Age"} < scores["bbq"].keys()
    assert not [metric for metric in scores["bbq"] if "SES" in metric]
    json.dumps(scores, allow_nan=False)
    rows = list(sample_rows(found, "bbq"))
    accuracy = {
        kind: [row["metrics"]["acc"] for row in rows if row["doc"]["context_condition"] == kind]
        for kind in ("ambig", "disambig")
    }
    assert scores["bbq"]["accuracy_amb"]["score"] == pytest.approx(sum(accuracy["ambig"]) / 4)
    assert scores["bbq"]["accuracy_disamb"]["score"] == pytest.approx(sum(accuracy["disambig"]) / 4)
    # Ten of an ambiguous question's twelve choices count as right, so 1/12 would be no chance level.
    assert scores["bbq"]["acc"]["chance"] is None
    assert scores["winogender_all"]["acc"]["chance"] == 0.5
