"""The shipped `sample` questions: counts, schemas, one right answer each, no give-aways, nothing from the real sets."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "evals" / "sample"
ARC = SAMPLE / "allenai" / "ai2_arc"
MMLU = SAMPLE / "cais" / "mmlu"
TRUTHFULQA = SAMPLE / "truthfulqa" / "truthful_qa"
LETTERS = ["A", "B", "C", "D"]
SUBJECT_NAMES = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history high_school_world_history
human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory professional_accounting
professional_law professional_medicine professional_psychology public_relations security_studies sociology
us_foreign_policy virology world_religions
"""
SUBJECTS = SUBJECT_NAMES.split()
# Moral scenarios share their four answers, as in the original; position and length of those say nothing.
FIXED_ANSWERS = ["Wrong, Wrong", "Wrong, Not wrong", "Not wrong, Wrong", "Not wrong, Not wrong"]

Row = dict[str, Any]
Item = tuple[str, list[str], int]  # question, choices, index of the right one


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def every_row() -> Iterator[tuple[Path, Row]]:
    """Every question once: TruthfulQA's for generation are its multiple-choice ones again."""
    for path in sorted(path for path in SAMPLE.rglob("*.jsonl") if path.parent.name != "generation"):
        for row in read(path):
            yield path, row


def arc(config: str, split: str) -> list[Item]:
    return [
        (row["question"], row["choices"]["text"], row["choices"]["label"].index(row["answerKey"]))
        for row in read(ARC / config / f"{split}.jsonl")
    ]


def mmlu(split: str) -> list[Item]:
    rows = [row for subject in SUBJECTS for row in read(MMLU / subject / f"{split}.jsonl")]
    return [(row["question"], row["choices"], row["answer"]) for row in rows]


def mc1() -> list[Item]:
    rows = read(TRUTHFULQA / "multiple_choice" / "validation.jsonl")
    return [(row["question"], row["mc1_targets"]["choices"], row["mc1_targets"]["labels"].index(1)) for row in rows]


SCORED = {
    "arc_easy": arc("ARC-Easy", "test"),
    "arc_challenge": arc("ARC-Challenge", "test"),
    "mmlu": mmlu("test"),
    "truthfulqa": mc1(),
}
LETTERED = ["arc_easy", "arc_challenge", "mmlu"]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_the_sample_holds_exactly_the_promised_files_and_counts() -> None:
    expected = {
        "allenai/ai2_arc/ARC-Challenge/test.jsonl": 40,
        "allenai/ai2_arc/ARC-Challenge/train.jsonl": 5,
        "allenai/ai2_arc/ARC-Easy/test.jsonl": 40,
        "allenai/ai2_arc/ARC-Easy/train.jsonl": 5,
        "truthfulqa/truthful_qa/generation/validation.jsonl": 40,
        "truthfulqa/truthful_qa/multiple_choice/validation.jsonl": 40,
    }
    for subject in SUBJECTS:
        expected[f"cais/mmlu/{subject}/test.jsonl"] = 2
        expected[f"cais/mmlu/{subject}/dev.jsonl"] = 1
    found = {path.relative_to(SAMPLE).as_posix(): len(read(path)) for path in SAMPLE.rglob("*.jsonl")}
    assert len(SUBJECTS) == 57
    assert found == expected


@pytest.mark.parametrize("folder", [ARC, MMLU, TRUTHFULQA], ids=lambda folder: folder.name)
def test_each_dataset_card_names_every_data_file_once_and_the_licence(folder: Path) -> None:
    front_matter = (folder / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    card = yaml.safe_load(front_matter)
    named = [data["path"] for config in card["configs"] for data in config["data_files"]]
    for config in card["configs"]:
        for data in config["data_files"]:
            assert data["path"] == f"{config['config_name']}/{data['split']}.jsonl"
    assert sorted(named) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl"))
    assert card["license"] == "apache-2.0"


@pytest.mark.parametrize("folder", [SAMPLE, ARC, MMLU, TRUTHFULQA], ids=lambda folder: folder.name)
def test_each_readme_says_that_this_is_not_the_real_benchmark(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\bnot\W* (ARC|the AI2 Reasoning Challenge|MMLU|TruthfulQA)\b", text)
    assert "sample" in text


@pytest.mark.parametrize("path", sorted(ARC.rglob("*.jsonl")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_arc_rows_have_arc_fields(path: Path) -> None:
    for row in read(path):
        assert list(row) == ["id", "question", "choices", "answerKey"]
        assert row["id"].startswith("raymill-sample-")
        assert set(row["choices"]) == {"text", "label"}
        assert row["choices"]["label"] == LETTERS
        assert len(row["choices"]["text"]) == 4
        assert row["answerKey"] in LETTERS


@pytest.mark.parametrize("split", ["test", "dev"])
def test_mmlu_rows_have_mmlu_fields(split: str) -> None:
    for subject in SUBJECTS:
        for row in read(MMLU / subject / f"{split}.jsonl"):
            assert list(row) == ["question", "subject", "choices", "answer"]
            assert row["subject"] == subject
            assert len(row["choices"]) == 4
            assert type(row["answer"]) is int
            assert row["answer"] in range(4)
            if subject == "moral_scenarios":
                assert row["choices"] == FIXED_ANSWERS
                assert re.search(r"\nScenario 1 \| .+\nScenario 2 \| .+", row["question"])


def test_truthfulqa_rows_serve_both_mc1_and_mc2() -> None:
    for row in read(TRUTHFULQA / "multiple_choice" / "validation.jsonl"):
        one, two = row["mc1_targets"], row["mc2_targets"]
        assert list(row) == ["question", "mc1_targets", "mc2_targets"]
        for targets in (one, two):
            assert set(targets) == {"choices", "labels"}
            assert len(targets["choices"]) == len(targets["labels"])
            assert set(targets["labels"]) == {0, 1}
            # lm-eval takes position 0 for the right answer, so the right ones come first.
            assert targets["labels"] == sorted(targets["labels"], reverse=True)
        assert one["labels"].count(1) == 1
        assert len(one["choices"]) >= 4
        assert two["labels"].count(1) >= 2
        assert two["labels"].count(0) >= 2
        # mc2 is mc1 with more right answers: the two must not contradict each other.
        truth = dict(zip(two["choices"], two["labels"], strict=True))
        assert all(truth[text] == label for text, label in zip(one["choices"], one["labels"], strict=True))


def test_truthfulqa_asks_for_texts_what_it_asks_with_choices() -> None:
    choices = read(TRUTHFULQA / "multiple_choice" / "validation.jsonl")
    texts = read(TRUTHFULQA / "generation" / "validation.jsonl")
    for chosen, written in zip(choices, texts, strict=True):
        truth = dict(zip(chosen["mc2_targets"]["choices"], chosen["mc2_targets"]["labels"], strict=True))
        assert written["question"] == chosen["question"]
        assert written["best_answer"] == chosen["mc1_targets"]["choices"][0]
        assert written["correct_answers"] == [text for text, right in truth.items() if right]
        assert written["incorrect_answers"] == [text for text, right in truth.items() if not right]


def test_ids_and_questions_are_unique() -> None:
    rows = [row for _, row in every_row()]
    ids = [row["id"] for row in rows if "id" in row]
    questions = Counter(" ".join(words(row["question"])) for row in rows)
    assert len(ids) == 90
    assert len(set(ids)) == len(ids)
    assert [question for question, count in questions.items() if count > 1] == []


def test_texts_are_clean_and_choices_distinct() -> None:
    for path, row in every_row():
        if "mc1_targets" in row:
            lists = [row["mc1_targets"]["choices"], row["mc2_targets"]["choices"]]
        else:
            lists = [row["choices"]["text"] if "answerKey" in row else row["choices"]]
        for choices in lists:
            assert len(set(choices)) == len(choices), (path, row["question"])
            for text in [row["question"], *choices]:
                assert text, (path, row["question"])
                assert text == text.strip()
                assert "  " not in text


@pytest.mark.parametrize("suite", LETTERED)
def test_right_answers_are_spread_over_the_letters(suite: str) -> None:
    counts = Counter(answer for _, _, answer in SCORED[suite])
    for letter in range(4):
        assert 0.15 <= counts[letter] / len(SCORED[suite]) <= 0.35


@pytest.mark.parametrize("suite", SCORED)
@pytest.mark.parametrize("extreme", [max, min], ids=["longest", "shortest"])
def test_length_does_not_give_the_right_answer_away(suite: str, extreme: Any) -> None:
    """Choosing the longest (or shortest) answer, ties broken at random, must not do much better than guessing."""
    expected = 0.0
    items = [item for item in SCORED[suite] if item[1] != FIXED_ANSWERS]
    for _, choices, answer in items:
        lengths = [len(choice) for choice in choices]
        best = extreme(lengths)
        expected += (lengths[answer] == best) / lengths.count(best)
    assert expected / len(items) < 0.40


@pytest.fixture(scope="module")
def real_sets(anchors: Path) -> Path:
    return anchors / "benchmarks"


@pytest.mark.anchor
def test_fields_and_folders_are_those_of_the_real_sets(real_sets: Path) -> None:
    import pyarrow.parquet as parquet

    assert sorted(path.name for path in (real_sets / "cais" / "mmlu").iterdir() if path.is_dir()) == SUBJECTS
    for path in SAMPLE.rglob("*.jsonl"):
        real = (real_sets / path.relative_to(SAMPLE)).with_suffix(".parquet")
        assert list(read(path)[0]) == parquet.read_schema(real).names, path


@pytest.mark.anchor
def test_no_question_comes_from_the_real_sets(real_sets: Path) -> None:
    """No question's text, and no run of nine words out of one, occurs in any question of the real sets."""
    import pyarrow.parquet as parquet

    run = 9
    real: list[list[str]] = []
    for path in sorted(real_sets.rglob("*.parquet")):
        real.extend(words(text) for text in parquet.read_table(path, columns=["question"])["question"].to_pylist())
    texts = {" ".join(question) for question in real}
    runs = {tuple(question[start : start + run]) for question in real for start in range(len(question) - run + 1)}
    assert len(texts) > 15_000
    for path, row in every_row():
        ours = words(row["question"])
        assert " ".join(ours) not in texts, (path, row["question"])
        shared = [ours[i : i + run] for i in range(len(ours) - run + 1) if tuple(ours[i : i + run]) in runs]
        assert not shared, (path, row["question"], shared)
