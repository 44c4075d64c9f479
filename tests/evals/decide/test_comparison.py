"""Two evaluations beside each other: what is paired, tested, corrected and said."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.errors import UserError
from cluster.store import Store
from evals.decide.comparison import compare
from evals.decide.page import comparison_page
from evals.decide.reading import Measured, load_measured
from evals.decide.words import as_json, sentence, table_rows
from pipelines.cli import run_command

from .conftest import Values, changed, coin, publish_evaluation, publish_model, sample_row, write_evaluation


def two(tmp_path: Path, store: Store, a: Values, b: Values, **options: Mapping[str, Any]) -> tuple[Measured, Measured]:
    write_evaluation(tmp_path / "base", a, **options)  # type: ignore[arg-type]
    write_evaluation(tmp_path / "tuned", b, model="Adapter/tuned-0123456789ab", **options)  # type: ignore[arg-type]
    return load_measured(store, str(tmp_path / "base")), load_measured(store, str(tmp_path / "tuned"))


def test_one_suite_is_mcnemars_test(tmp_path: Path, store: Store) -> None:
    easy = coin(1, 1000, 0.5)
    found = compare(
        *two(tmp_path, store, {"arc_easy": {"arc_easy": easy}}, {"arc_easy": {"arc_easy": changed(easy, 60, 30)}})
    )
    (row,) = found.rows
    assert (row.test, row.gained, row.lost, row.documents) == ("mcnemar", 60, 30, 1000)
    assert row.p_value == row.adjusted == pytest.approx(stats.binomtest(60, 90).pvalue)
    assert row.difference == pytest.approx(0.03)
    assert found.verdict == row.verdict == "better"
    assert "tuned is better than base, shown on arc_easy (+3.00) at 95% confidence" in sentence(found)
    assert len(found.flipped["arc_easy"]) == 90
    assert sum(flip.gained for flip in found.flipped["arc_easy"]) == 60
    worse = compare(found.b, found.a)
    assert worse.verdict == "worse"
    assert worse.rows[0].interval == pytest.approx((-row.interval[1], -row.interval[0]))


def test_no_evidence_says_what_would_decide(tmp_path: Path, store: Store) -> None:
    easy = coin(1, 400, 0.5)
    found = compare(
        *two(tmp_path, store, {"arc_easy": {"arc_easy": easy}}, {"arc_easy": {"arc_easy": changed(easy, 22, 18)}})
    )
    (row,) = found.rows
    assert found.verdict == "no evidence"
    assert row.decides is not None
    assert row.decides > 400
    assert f"{row.decides:,} documents of arc_easy (there are 400)" in sentence(found)
    assert row.detectable is not None
    assert row.detectable > abs(row.difference)
    same = compare(found.a, found.a)
    assert "do not differ at all" in sentence(same)
    assert same.rows[0].p_value == 1.0


def test_a_group_is_bootstrapped_within_its_tasks_and_the_average_is_of_suites(tmp_path: Path, store: Store) -> None:
    mmlu = {f"mmlu_{name}": coin(seed, 40, 0.4) for seed, name in enumerate("abcdefgh")}
    easy = coin(50, 200, 0.6)
    rng = np.random.default_rng(0)
    mc2 = list(rng.uniform(0, 1, 100))
    better = {"mmlu": {task: changed(values, 6, 2) for task, values in mmlu.items()}, "arc_easy": {"arc_easy": easy}}
    found = compare(
        *two(
            tmp_path,
            store,
            {"mmlu": mmlu, "arc_easy": {"arc_easy": easy}, "truthfulqa_mc2": {"truthfulqa_mc2": mc2}},
            {**better, "truthfulqa_mc2": {"truthfulqa_mc2": [max(0.0, value - 0.05) for value in mc2]}},
        )
    )
    rows = {row.name: row for row in found.rows}
    assert rows["mmlu"].test == rows["truthfulqa_mc2"].test == rows["average"].test == "bootstrap"
    assert rows["arc_easy"].test == "mcnemar"
    assert rows["average"].difference == pytest.approx(
        math.fsum(rows[name].difference for name in ("mmlu", "arc_easy", "truthfulqa_mc2")) / 3
    )
    assert found.verdict == "mixed"
    assert (rows["mmlu"].verdict, rows["truthfulqa_mc2"].verdict) == ("better", "worse")
    assert [row.name for row in found.tasks["mmlu"]] == sorted(mmlu)
    assert all(row.test == "mcnemar" and row.adjusted >= row.p_value for row in found.tasks["mmlu"])
    page = comparison_page(found).render()
    bars, differences, radar, subjects = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert bars.count("<path") == 6  # A's and B's intervals of three suites
    assert all(name in differences for name in ("mmlu", "arc_easy", "truthfulqa_mc2", "average"))
    assert "Suite by suite" in radar and radar.count("<polygon") >= 2
    assert all(task in subjects for task in mmlu)
    assert "better than base on mmlu" in page and "worse on truthfulqa_mc2" in page


def test_a_document_of_two_suites_counts_once_in_the_average(tmp_path: Path, store: Store) -> None:
    """TruthfulQA's questions stand in mc1 and mc2; counting them as independent would make the error too small."""
    mc = coin(1, 200, 0.5)
    after = changed(mc, 30, 20)
    a = {f"truthfulqa_mc{n}": {f"truthfulqa_mc{n}": mc} for n in (1, 2)}
    b = {f"truthfulqa_mc{n}": {f"truthfulqa_mc{n}": after} for n in (1, 2)}
    found = compare(*two(tmp_path, store, a, b))
    rows = {row.name: row for row in found.rows}
    assert rows["average"].documents == 200
    assert rows["average"].stderr == pytest.approx(rows["truthfulqa_mc1"].stderr, rel=0.01)


def test_only_the_same_documents_are_compared(tmp_path: Path, store: Store) -> None:
    easy = coin(1, 100, 0.5)
    a, b = two(
        tmp_path, store, {"arc_easy": {"arc_easy": easy}, "x": {"x": easy}}, {"arc_easy": {"arc_easy": easy[:60]}}
    )
    found = compare(a, b)
    assert found.rows[0].documents == 60
    assert "arc_easy: 40 documents that only one of the two was asked" in found.left_out
    assert "x: only base has it" in found.left_out


def test_what_was_asked_differently_is_refused(tmp_path: Path, store: Store) -> None:
    easy = {"arc_easy": {"arc_easy": coin(1, 50, 0.5)}}
    write_evaluation(tmp_path / "a", easy)
    write_evaluation(tmp_path / "b", easy, settings={"num_fewshot": {"arc_easy": 25}})
    a, b = load_measured(store, str(tmp_path / "a")), load_measured(store, str(tmp_path / "b"))
    with pytest.raises(UserError, match="worked examples 0 against 25") as caught:
        compare(a, b)
    assert "--any-settings" in caught.value.next_step
    assert compare(a, b, any_settings=True).verdict == "no evidence"
    write_evaluation(tmp_path / "c", easy, settings={"num_fewshot": {"arc_easy": 25}, "seed": 7})
    c = load_measured(store, str(tmp_path / "c"))
    with pytest.raises(UserError, match="arc_easy: worked examples drawn with seed 1234, 7"):
        compare(b, c)
    assert compare(b, c, any_settings=True).verdict == "no evidence"
    write_evaluation(tmp_path / "d", easy, settings={"seed": 7})
    assert compare(a, load_measured(store, str(tmp_path / "d"))).verdict == "no evidence"  # without examples all alike


def test_a_metric_that_no_mean_of_documents_gives_is_left_out(tmp_path: Path, store: Store) -> None:
    """Corpus BLEU and its kin: the documents' values do not explain the score."""
    values = {"arc_easy": {"arc_easy": coin(1, 50, 0.5)}, "wmt": {"wmt": coin(2, 50, 0.5)}}
    folder = write_evaluation(tmp_path / "a", values)
    results = json.loads((folder / "results.json").read_text())
    results["tasks"]["wmt"]["acc"]["score"] += 0.1
    (folder / "results.json").write_text(json.dumps(results))
    measured = load_measured(store, str(folder))
    found = compare(measured, measured)
    assert [row.name for row in found.rows] == ["arc_easy"]
    assert "wmt: acc is not the mean of its documents' values" in found.left_out


def test_what_is_partial_says_so(tmp_path: Path, store: Store) -> None:
    easy = {"arc_easy": {"arc_easy": coin(1, 50, 0.5)}}
    write_evaluation(tmp_path / "a", easy)
    write_evaluation(tmp_path / "b", easy, more={"unanswered": "3 of 53 questions were not answered"})
    found = compare(load_measured(store, str(tmp_path / "a")), load_measured(store, str(tmp_path / "b")))
    assert "b is PARTIAL: 3 of 53 questions were not answered" in found.left_out


def test_a_stereotypes_share_has_no_better_side(tmp_path: Path, store: Store) -> None:
    pairs = coin(1, 400, 0.5)
    a, b = two(
        tmp_path,
        store,
        {"crows_pairs_english": {"crows_pairs_english": pairs}},
        {"crows_pairs_english": {"crows_pairs_english": changed(pairs, 90, 5)}},
        metrics={"crows_pairs_english": "pct_stereotype"},
    )
    found = compare(a, b)
    assert found.rows[0].verdict == "different"
    assert found.verdict == "no evidence"


def test_an_evaluation_is_found_by_its_own_name_its_models_or_its_folder(tmp_path: Path, store: Store) -> None:
    easy = coin(1, 50, 0.5)
    folder = write_evaluation(tmp_path / "a", {"arc_easy": {"arc_easy": easy}})
    model = publish_model(store, "pretrain")
    published = publish_evaluation(store, folder, "evals-pretrain", model)
    for reference in (published.id, "evals-pretrain", model.id, "pretrain", str(folder)):
        assert len(load_measured(store, reference).suites["arc_easy"]) == 50
    lonely = publish_model(store, "finetune")
    with pytest.raises(UserError, match="nothing in the store has evaluated it"):
        load_measured(store, lonely.id)
    with pytest.raises(UserError, match=r"no results\.json"):
        load_measured(store, str(tmp_path))
    (folder / "results.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_measured(store, str(folder))


def test_a_folder_of_weights_means_the_evaluation_of_these_very_weights(tmp_path: Path, store: Store) -> None:
    from evals.sources import FolderSource

    weights = tmp_path / "models" / "mine"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"first")
    folder = write_evaluation(tmp_path / "a", {"arc_easy": {"arc_easy": coin(1, 50, 0.5)}}, model="mine")
    results = json.loads((folder / "results.json").read_text())
    results["model"]["content_sha256"] = FolderSource(weights).content_sha256
    (folder / "results.json").write_text(json.dumps(results))
    publish_evaluation(store, folder, "evals-mine")
    assert load_measured(store, str(weights)).model == str(weights)
    (weights / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="nothing in the store has evaluated these weights"):
        load_measured(store, str(weights))


def test_repeated_documents_are_told_apart_by_their_order(tmp_path: Path, store: Store) -> None:
    folder = write_evaluation(tmp_path / "a", {"arc_easy": {"arc_easy": [1.0, 0.0]}})
    rows = [sample_row("arc_easy", 7, "acc", value) for value in (1.0, 0.0)]
    (folder / "samples" / "arc_easy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [key[2] for key in load_measured(store, str(folder)).suites["arc_easy"]] == [0, 1]


def test_the_command(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    easy = coin(1, 300, 0.5)
    two(tmp_path, store, {"arc_easy": {"arc_easy": easy}}, {"arc_easy": {"arc_easy": changed(easy, 40, 10)}})
    words = ["compare", str(tmp_path / "base"), str(tmp_path / "tuned"), "--store", store.url]
    page = tmp_path / "page.html"
    assert run_command([*words, "--page", str(page)]) == 0
    out = capsys.readouterr().out
    assert "tuned is better than base" in out
    assert "40 answers became right, 10 became wrong" in out
    assert "arc_easy (mirror)" in out
    text = html.unescape(page.read_text())
    assert "arc_easy: 40 became right, 10 became wrong" in text
    examples = text.partition("Answers that changed")[2].partition("Settings of A")[0]
    gained, lost = examples.count(" became right"), examples.count(" became wrong")
    assert (gained, lost) == (6, 6)  # five examples each, and the sentence
    assert re.search(r"of arc_easy\?\nAnswer:\n\nright: choice 0\nA:     choice [123]\nB:     choice 0", examples)
    assert re.search(r"of arc_easy\?\nAnswer:\n\nright: choice 0\nA:     choice 0\nB:     choice [123]", examples)
    assert "pretrained=MODEL_FOLDER,dtype=auto" in page.read_text()
    assert run_command([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "better"
    assert told["rows"][0]["gained"] == 40
    assert len(told["flipped"]["arc_easy"]) == 50
    assert run_command([*words, "--metric", "arc_easy=nothing"]) == 2
    assert "metrics of both: acc" in capsys.readouterr().err
    assert run_command([*words, "--metric", "arc_easy"]) == 2
    assert run_command([*words, "--metric", "arc_esay=acc"]) == 2
    assert "arc_esay is not a suite of both\n  they share: arc_easy" in capsys.readouterr().err
    assert run_command([*words, "--alpha", "0.7"]) == 2
    assert run_command([*words, "--page", str(tmp_path / "no" / "page.html")]) == 2


def test_held_out_text_is_compared_by_its_bytes(tmp_path: Path, store: Store) -> None:
    """Fewer bits are better; a long document weighs more; and the suites' average leaves it out."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(100, 5000, 60)
    measured = []
    for name, better in (("base", 0.0), ("tuned", 0.1)):
        easy = coin(1, 50, 0.5)
        folder = write_evaluation(tmp_path / name, {"arc_easy": {"arc_easy": easy}, "x": {"x": easy}}, model=name)
        rows = []
        for number, size in enumerate(sizes.tolist()):
            bits = 1.2 + (number % 7) / 10 - better * (1 + size / 5000) + rng.normal(0, 0.02)
            row = sample_row("heldout", number, "bits_per_byte", bits)
            del row["answers"]
            rows.append({**row, "weight": size})
        (folder / "samples" / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        measured.append((load_measured(store, str(folder)), rows))
    (a, first), (b, second) = measured
    found = compare(a, b)
    rows_by_name = {row.name: row for row in found.rows}
    row = rows_by_name["heldout"]
    expected = sum(
        (after["metrics"]["bits_per_byte"] - before["metrics"]["bits_per_byte"]) * before["weight"]
        for before, after in zip(first, second, strict=True)
    ) / int(sizes.sum())
    assert row.difference == pytest.approx(expected)
    assert (row.metric, row.verdict, found.verdict) == ("bits_per_byte", "better", "better")
    assert rows_by_name["average"].difference == 0
    assert "heldout" not in found.flipped
    assert "heldout (-0." in sentence(found)


def test_where_less_is_better_a_document_did_better_with_less(tmp_path: Path, store: Store) -> None:
    """Of bits a byte below 1 too: they are neither right nor wrong."""
    rng = np.random.default_rng(1)
    before = rng.uniform(0.3, 0.45, 100).tolist()
    after = [value + 0.2 if number < 70 else value - 0.01 for number, value in enumerate(before)]
    found = compare(*two(tmp_path, store, {"x": {"x": before}}, {"x": {"x": after}}, metrics={"x": "bits_per_byte"}))
    (row,) = found.rows
    assert (row.verdict, row.gained, row.lost) == ("worse", 30, 70)
    assert "x" not in found.flipped


def test_of_fewer_errors_the_interval_is_still_of_the_difference(tmp_path: Path, store: Store) -> None:
    wrong = coin(1, 400, 0.5)
    a, b = {"x": {"x": wrong}}, {"x": {"x": changed(wrong, 10, 60)}}
    (row,) = compare(*two(tmp_path, store, a, b, metrics={"x": "loss"})).rows
    assert (row.test, row.verdict, row.gained, row.lost) == ("mcnemar", "better", 60, 10)
    assert row.difference == pytest.approx(-50 / 400)
    assert row.interval[0] < row.difference < row.interval[1]


def test_what_goes_to_100_is_told_in_its_own_unit_and_is_no_part_of_the_average(tmp_path: Path, store: Store) -> None:
    """BLEU and ROUGE of TruthfulQA are such: beside shares they would outweigh all others a hundred times."""
    rng = np.random.default_rng(1)
    easy = coin(1, 60, 0.5)
    shares = {name: {name: easy} for name in ("easy", "hard")}
    a = {"bleu": {"bleu": rng.uniform(20, 30, 60).tolist()}, **shares}
    b = {"bleu": {"bleu": [value + rng.uniform(4, 7) for value in a["bleu"]["bleu"]]}, **shares}
    found = compare(*two(tmp_path, store, a, b, metrics={"bleu": "bleu_max"}))
    rows = {row.name: row for row in found.rows}
    assert (rows["bleu"].verdict, rows["average"].difference) == ("better", 0)
    assert rows["bleu"].interval[0] < rows["bleu"].difference < rows["bleu"].interval[1]
    assert f"bleu ({rows['bleu'].difference:+.4g})" in sentence(found)
    assert 4 < rows["bleu"].difference < 7
    assert "bleu" not in found.flipped
    page = comparison_page(found).render()
    assert "bleu_max" in page and f"{100 * rows['bleu'].difference:+.2f}" not in page


def test_a_tasks_own_word_on_which_side_is_better_decides(tmp_path: Path, store: Store) -> None:
    """A team's metric may be called anything; its file says higher_is_better: false."""
    wrong = coin(1, 400, 0.5)
    a, b = {"x": {"x": wrong}, "y": {"y": wrong}}, {"x": {"x": changed(wrong, 10, 60)}, "y": {"y": wrong}}
    told = {"higher_is_better": {"x": {"refused": False}, "y": {"refused": False}}}
    found = compare(*two(tmp_path / "told", store, a, b, metrics={"x": "refused", "y": "refused"}, more=told))
    row = found.rows[0]
    assert (row.verdict, row.gained, row.lost, found.verdict) == ("better", 60, 10, "better")
    assert [sum(flip.gained for flip in found.flipped["x"]), len(found.flipped["x"])] == [60, 70]
    assert "x (-12.50)" in sentence(found)
    assert [row.name for row in found.rows] == ["x", "y"]  # no average of what is better when less
    unknown = compare(*two(tmp_path / "guessed", store, a, b, metrics={"x": "refused", "y": "refused"}))
    assert unknown.verdict == "worse"
    torn = {"higher_is_better": {"x": {"refused": None}}}
    differs = compare(*two(tmp_path / "torn", store, a, b, metrics={"x": "refused", "y": "refused"}, more=torn))
    assert differs.rows[0].verdict == "different"


def test_where_nothing_can_be_compared_it_says_why(tmp_path: Path, store: Store) -> None:
    """A translation task has a BLEU of the whole set and nothing for each document."""
    for name, score in (("a", 20.0), ("b", 25.5)):
        folder = write_evaluation(tmp_path / name, {"wmt16-de-en": {"wmt16-de-en": [0.0, 0.0]}})
        samples = folder / "samples" / "wmt16-de-en.jsonl"
        rows = [json.loads(line) | {"metrics": {}} for line in samples.read_bytes().splitlines()]
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        results = json.loads((folder / "results.json").read_text())
        figures = {"score": score, "stderr": None, "interval_95": None, "chance": None, "n": 2}
        results["tasks"]["wmt16-de-en"] = {"bleu": figures}
        (folder / "results.json").write_text(json.dumps(results))
    a, b = load_measured(store, str(tmp_path / "a")), load_measured(store, str(tmp_path / "b"))
    with pytest.raises(UserError, match=r"nothing .* can be compared:\n  wmt16-de-en: bleu 20 and 25.5 are figures of"):
        compare(a, b)
    c = load_measured(store, str(write_evaluation(tmp_path / "c", {"x": {"x": [1.0, 0.0]}})))
    with pytest.raises(UserError, match="wmt16-de-en: only a has it"):
        compare(a, c)


def test_json_holds_only_numbers_that_json_knows(tmp_path: Path, store: Store) -> None:
    a, b = two(tmp_path, store, {"x": {"x": [0.2]}}, {"x": {"x": [0.4]}})
    text = json.dumps(as_json(compare(a, b)), allow_nan=False)
    assert json.loads(text)["rows"][0]["interval"] == [None, None]
    assert table_rows(compare(a, b))


def test_equal_models_are_called_different_as_rarely_as_promised(tmp_path: Path, store: Store) -> None:
    """The whole path, correction included: 30 pairs of equal models, two suites and their average each."""
    rng = np.random.default_rng(4)
    said = 0
    for run in range(30):
        base = {"a": {"a": coin(run, 150, 0.5)}, "b": {f"b{n}": coin(run + n, 30, 0.4) for n in range(4)}}
        flip = lambda values: [1 - v if rng.uniform() < 0.15 else v for v in values]  # noqa: E731
        other = {suite: {task: flip(values) for task, values in tasks.items()} for suite, tasks in base.items()}
        # Two noisy copies of one model differ as two equal ones do; base and other would not: noise pulls to a half.
        third = {suite: {task: flip(values) for task, values in tasks.items()} for suite, tasks in base.items()}
        folder = tmp_path / str(run)
        said += compare(*two(folder, store, other, third)).verdict != "no evidence"
    assert said <= 5
