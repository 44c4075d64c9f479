"""The gate: shown, refuted or open; never wrong more often than it says; and its command, codes and record."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cluster.artifact import find_artifact, list_artifacts, verify_artifact
from cluster.errors import UserError
from cluster.store import Store
from evals.decide.comparison import compare
from evals.decide.gate import Condition, decide
from evals.decide.reading import Measured, load_measured
from pipelines.cli import run_command

from .conftest import changed, coin, publish_evaluation, publish_model, sample_row, write_evaluation


def measured(store: Store, folder: Path, values: list[float], suite: str = "arc_easy") -> Measured:
    return load_measured(store, str(write_evaluation(folder, {suite: {suite: values}}, model=f"Model/{folder.name}")))


def half(right: int, count: int) -> list[float]:
    return [1.0] * right + [0.0] * (count - right)


@pytest.mark.parametrize(
    ("right", "condition", "verdict"),
    [
        (330, Condition("arc_easy.acc", ">=", 0.3), "pass"),
        (310, Condition("arc_easy.acc", ">=", 0.3), "no_evidence"),
        (290, Condition("arc_easy.acc", ">=", 0.3), "no_evidence"),
        (270, Condition("arc_easy.acc", ">", 0.3), "fail"),
        (270, Condition("arc_easy.acc", "<=", 0.3), "pass"),
        (330, Condition("arc_easy.acc", "<", 0.3), "fail"),
    ],
)
def test_a_target_is_shown_refuted_or_open(
    store: Store, tmp_path: Path, right: int, condition: Condition, verdict: str
) -> None:
    found = decide(measured(store, tmp_path / "a", half(right, 1000)), None, [condition], {})
    assert found.verdict == verdict
    (check,) = found.checks
    oracle = stats.binomtest(right, 1000).proportion_ci(0.9, method="wilson")
    assert (check.low, check.high) == pytest.approx((oracle.low, oracle.high))
    by_value = decide(measured(store, tmp_path / "b", half(right, 1000)), None, [condition], {}, measured=True)
    assert by_value.verdict == ("pass" if verdict == "pass" or right == 310 else "fail")


def test_an_open_target_says_how_many_documents_it_takes(store: Store, tmp_path: Path) -> None:
    (check,) = decide(
        measured(store, tmp_path / "a", half(310, 1000)), None, [Condition("arc_easy.acc", ">=", 0.3)], {}
    ).checks
    expected = ((stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * math.sqrt(0.31 * 0.69) / 0.01) ** 2
    assert check.needs == math.ceil(expected)


def test_what_was_not_measured_is_no_evidence_and_what_has_no_documents_goes_by_value(
    store: Store, tmp_path: Path
) -> None:
    folder = write_evaluation(tmp_path / "a", {"arc_easy": {"arc_easy": coin(1, 50, 0.5)}},
                              more={"heldout": {"perplexity": 40.0, "unigram_ratio": 1.0}})  # fmt: skip
    candidate = load_measured(store, str(folder))
    found = decide(candidate, None, [Condition("heldout.perplexity", "<=", 60), Condition("mmlu.acc", ">=", 0.3)], {})
    assert [check.verdict for check in found.checks] == ["pass", "no_evidence"]
    assert found.verdict == "no_evidence"
    assert "no documents behind it" in found.checks[0].note
    assert decide(candidate, None, [Condition("heldout.unigram_ratio", "<", 1)], {}).verdict == "fail"
    assert decide(candidate, None, [Condition("heldout.unigram_ratio", "<=", 1)], {}).verdict == "pass"


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "verdict"),
    [(40, 40, 0.02, "pass"), (40, 40, 0.005, "no_evidence"), (20, 90, 0.02, "fail"), (40, 70, 0.02, "no_evidence")],
)
def test_not_worse_is_shown_refuted_or_open(
    store: Store, tmp_path: Path, gained: int, lost: int, margin: float, verdict: str
) -> None:
    base = coin(1, 2000, 0.5)
    a, b = measured(store, tmp_path / "a", base), measured(store, tmp_path / "b", changed(base, gained, lost))
    found = decide(b, a, [], {"arc_easy.acc": margin})
    assert found.verdict == verdict
    assert found.checks[0].value == pytest.approx((gained - lost) / 2000)
    # With a margin of 0.02 the models would be told apart by 846 documents if they were equal: 2,000 did not do.
    needs = found.checks[0].needs
    assert needs is None if margin == 0.02 else needs is not None and needs > 2000


def test_every_check_has_to_pass_and_one_failure_decides(store: Store, tmp_path: Path) -> None:
    base = coin(1, 2000, 0.5)
    a, b = measured(store, tmp_path / "a", base), measured(store, tmp_path / "b", changed(base, 20, 90))
    low = Condition("arc_easy.acc", ">=", 0.3)
    assert decide(b, a, [low], {}).verdict == "pass"
    assert decide(b, a, [low], {"arc_easy": 0.02}).verdict == "fail"
    assert decide(b, a, [low, Condition("x.acc", ">=", 1)], {"arc_easy": 0.02}).verdict == "fail"
    assert decide(a, b, [low], {"arc_easy": 0.02, "x": 0.1}).verdict == "no_evidence"


def test_the_average_and_groups_are_held_too(store: Store, tmp_path: Path) -> None:
    mmlu = {f"mmlu_{name}": coin(seed, 100, 0.4) for seed, name in enumerate("abcd")}
    easy = coin(9, 400, 0.5)
    base = write_evaluation(tmp_path / "a", {"mmlu": mmlu, "arc_easy": {"arc_easy": easy}}, model="Model/a")
    other = {task: changed(values, 3, 4) for task, values in mmlu.items()}
    tuned = write_evaluation(
        tmp_path / "b", {"mmlu": other, "arc_easy": {"arc_easy": changed(easy, 8, 3)}}, model="Model/b"
    )
    a, b = load_measured(store, str(base)), load_measured(store, str(tuned))
    found = decide(b, a, [], {"average": 0.03, "mmlu.acc": 0.05, "arc_easy": 0.01})
    assert [check.verdict for check in found.checks] == ["pass", "pass", "pass"]
    assert found.checks[0].value == pytest.approx((-4 / 400 + 5 / 400) / 2)
    assert found.checks[1].low == pytest.approx(-0.01 - 1.65 * math.sqrt(28) / 400, abs=0.005)


def test_a_model_at_the_margin_gets_past_as_rarely_as_promised(store: Store, tmp_path: Path) -> None:
    """300 candidates worse by exactly the margin; at most alpha pass, within four standard errors."""
    rng = np.random.default_rng(2)
    base = [1.0] * 150 + [0.0] * 150
    a = measured(store, tmp_path / "a", base)
    key = list(a.suites["arc_easy"])
    passed = 0
    from dataclasses import replace

    for _ in range(300):
        moved = rng.choice([-1, 0, 1], 300, p=[0.15, 0.8, 0.05])
        a_values = [1.0 if move < 0 else 0.0 if move > 0 else 0.5 for move in moved]
        suites = [
            {
                "arc_easy": {
                    k: replace(a.suites["arc_easy"][k], metrics={"acc": value}) for k, value in zip(key, v, strict=True)
                }
            }
            for v in (
                [1.0 if value == 0.5 else value for value in a_values],
                [1.0 if move >= 0 else 0.0 for move in moved],
            )
        ]
        first, second = (replace(a, suites=suite, results={**a.results, "tasks": {}}) for suite in suites)
        passed += decide(second, first, [], {"arc_easy": 0.1}).verdict == "pass"
    assert passed <= 300 * 0.05 + 4 * math.sqrt(300 * 0.05 * 0.95)
    assert passed >= 2


@pytest.mark.parametrize(("gained", "lost"), [(2, 0), (1, 1), (0, 3)])
def test_few_changes_of_a_group_show_no_more_than_tangos_interval(
    store: Store, tmp_path: Path, gained: int, lost: int
) -> None:
    from evals.decide.paired import tango_interval

    first, second = coin(1, 100, 0.5), coin(2, 100, 0.5)
    base = write_evaluation(tmp_path / "a", {"mmlu": {"x": first, "y": second}}, model="Model/a")
    tuned = write_evaluation(
        tmp_path / "b", {"mmlu": {"x": changed(first, gained, lost), "y": second}}, model="Model/b"
    )
    (check,) = decide(load_measured(store, str(tuned)), load_measured(store, str(base)), [], {"mmlu": 0.05}).checks
    low, high = tango_interval(gained, lost, 200, 0.9)
    assert check.low is not None and check.high is not None
    assert check.low <= low
    assert check.high >= high


def perplexities(store: Store, folder: Path, each: float) -> Measured:
    """As lm-eval stores lambada: the documents of a perplexity hold their log-likelihoods."""
    suites = {"arc_easy": {"arc_easy": coin(1, 200, 0.5)}, "lambada_openai": {"lambada_openai": [-each] * 200}}
    write_evaluation(folder, suites, model=f"Model/{folder.name}", metrics={"lambada_openai": "perplexity"})
    results = json.loads((folder / "results.json").read_text())
    results["tasks"]["lambada_openai"]["perplexity"]["score"] = math.exp(each)
    (folder / "results.json").write_text(json.dumps(results))
    return load_measured(store, str(folder))


def test_what_is_not_the_mean_of_its_documents_is_not_judged_by_them(store: Store, tmp_path: Path) -> None:
    base, worse = perplexities(store, tmp_path / "base", 2.0), perplexities(store, tmp_path / "worse", 8.3)
    (check,) = decide(worse, None, [Condition("lambada_openai.perplexity", "<=", 20)], {}).checks
    assert (check.verdict, check.low) == ("fail", None)
    assert "not the mean of its documents' values" in check.note
    assert decide(base, None, [Condition("lambada_openai.perplexity", "<=", 20)], {}).verdict == "pass"
    (check,) = decide(worse, base, [], {"lambada_openai": 0.1}).checks
    assert (check.verdict, check.value) == ("no_evidence", None)
    assert "not the mean of its documents' values" in check.note


def test_the_average_leaves_out_what_is_not_the_mean_of_its_documents(store: Store, tmp_path: Path) -> None:
    easy = coin(1, 1000, 0.5)
    evaluations = []
    for name, value in (("base", 0.0), ("tuned", -5.0)):
        suites = {"arc_easy": {"arc_easy": easy}, "wmt": {"wmt": [value] * 1000}}
        folder = write_evaluation(tmp_path / name, suites, model=f"Model/{name}")
        results = json.loads((folder / "results.json").read_text())
        results["tasks"]["wmt"]["acc"]["score"] = 0.5
        (folder / "results.json").write_text(json.dumps(results))
        evaluations.append(load_measured(store, str(folder)))
    (check,) = decide(evaluations[1], evaluations[0], [], {"average": 0.02}).checks
    assert (check.verdict, check.documents) == ("pass", 1000)


def test_a_suite_without_documents_values_hinders_no_other(store: Store, tmp_path: Path) -> None:
    """Wikitext and corpus scores have none; of a partial evaluation's last suite nothing was answered."""
    base = coin(1, 2000, 0.5)
    evaluations = []
    for name, values in (("base", base), ("tuned", changed(base, 40, 40))):
        suites = {"arc_easy": {"arc_easy": values}, "wikitext": {"wikitext": [0.0]}}
        folder = write_evaluation(tmp_path / name, suites, model=f"Model/{name}")
        row = {**sample_row("wikitext", 0, "acc", 0.0), "metrics": {}}
        (folder / "samples" / "wikitext.jsonl").write_text(json.dumps(row) + "\n" if name == "base" else "")
        evaluations.append(load_measured(store, str(folder)))
    a, b = evaluations
    found = decide(b, a, [], {"arc_easy": 0.02, "average": 0.02, "wikitext": 0.02})
    assert [check.verdict for check in found.checks] == ["pass", "pass", "no_evidence"]
    assert "no metric has a value" in found.checks[2].note
    compared = compare(a, b)
    assert [row.name for row in compared.rows] == ["arc_easy"]
    assert "wikitext: no metric has a value for the documents of both" in compared.left_out


def test_a_partial_evaluation_never_passes(store: Store, tmp_path: Path) -> None:
    folder = write_evaluation(
        tmp_path / "a", {"arc_easy": {"arc_easy": half(90, 100)}}, more={"unanswered": "the endpoint stopped answering"}
    )
    found = decide(load_measured(store, str(folder)), None, [Condition("arc_easy.acc", ">=", 0.3)], {})
    assert [check.verdict for check in found.checks] == ["pass", "no_evidence"]
    assert found.verdict == "no_evidence"


def test_mistakes(store: Store, tmp_path: Path) -> None:
    a = measured(store, tmp_path / "a", coin(1, 50, 0.5))
    with pytest.raises(UserError, match="nothing to decide by"):
        decide(a, None, [], {})
    with pytest.raises(UserError, match="not worse than what"):
        decide(a, None, [], {"arc_easy": 0.1})
    with pytest.raises(UserError, match="the margin is 0"):
        decide(a, a, [], {"arc_easy": 0.0})


def test_the_command_decides_and_records(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = coin(1, 1000, 0.5)
    models = {}
    for name, values in (("pretrain", base), ("finetune", changed(base, 60, 30))):
        models[name] = publish_model(store, name)
        folder = write_evaluation(tmp_path / name, {"arc_easy": {"arc_easy": values}}, model=models[name].id)
        publish_evaluation(store, folder, f"evals-{name}", models[name])
    recipe = tmp_path / "docs.yaml"
    recipe.write_text(
        f"store: {store.url}\nobjective:\n  targets: {{arc_easy.acc: '>= 0.45'}}\n  not_worse: {{arc_easy: 0.02}}\n"
    )
    words = ["gate", "evals-finetune", "pretrain", "--recipe", str(recipe)]
    assert run_command([*words, "--dry-run"]) == 0
    assert list_artifacts(store, "Decision") == []
    page = tmp_path / "gate.html"
    assert run_command([*words, "--json", "--page", str(page)]) == 0
    told = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    decision = find_artifact(store, told["decision"])
    assert decision.details["candidate"] == models["finetune"].id
    assert decision.details["baseline"] == models["pretrain"].id
    assert decision.details["verdict"] == "pass"
    assert [check["name"] for check in decision.details["checks"]] == ["arc_easy.acc", "arc_easy"]
    assert decision.details["by"].startswith("raymill gate, ")
    assert {entry.path for entry in decision.files} == {"decision.json", "report.html"}
    assert set(decision.inputs) == {"candidate", "baseline"}
    assert verify_artifact(store, decision) == []
    assert "Gate: pass" in page.read_text()
    assert run_command([*words, "--target", "arc_easy.acc>=0.6"]) == 1
    assert run_command([*words, "--not-worse", "arc_easy=0.0001", "--target", "arc_easy.acc >= 0.53"]) == 4
    out = capsys.readouterr().out
    assert "fail: The candidate must not replace" in out
    assert "no evidence: Not decided" in out
    assert len(list_artifacts(store, "Decision")) == 3
    for wrong, told_so in (
        (["gate"], "no candidate is named"),
        (["gate", "pretrain", "pretrain"], "both evaluations are of"),
        (["gate", "pretrain", "finetune", "--target", "x"], "compares nothing"),
        (["gate", "pretrain", "finetune", "--target", "x >= y"], "write a comparison"),
        (["gate", "pretrain", "finetune", "--not-worse", "x"], "reads SUITE=MARGIN"),
    ):
        assert run_command([*wrong, "--store", store.url]) == 2
        assert told_so in capsys.readouterr().err


def test_a_bound_that_there_is_none_of_is_left_out_of_json(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a dozen probabilities one changed: the bootstrap bounds nothing, and its formula asks for fewer documents."""
    before = [0.5] * 12
    for name, values in (("old", before), ("new", [0.4, *before[1:]])):
        model = publish_model(store, name)
        folder = write_evaluation(tmp_path / name, {"x": {"x": values}}, model=model.id)
        publish_evaluation(store, folder, f"evals-{name}", model)
    assert run_command(["gate", "new", "old", "--store", store.url, "--not-worse", "x=0.2", "--json"]) == 4
    told = capsys.readouterr().out
    assert "Infinity" not in told
    (check,) = json.loads(told)["checks"]
    assert check["verdict"] == "no_evidence"
    assert not {"low", "needs"} & set(check)


def test_a_decision_is_left_where_the_two_cannot_be_compared(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, suite in (("old", "arc_easy"), ("new", "hellaswag")):
        model = publish_model(store, name)
        folder = write_evaluation(tmp_path / name, {suite: {suite: half(90, 100)}}, model=model.id)
        publish_evaluation(store, folder, f"evals-{name}", model)
    words = ["gate", "new", "old", "--store", store.url, "--target", "hellaswag.acc >= 0.5", "--json"]
    assert run_command(words) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert len(list_artifacts(store, "Decision")) == 1


def test_a_recipe_alone_names_its_models(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Variants that are artifacts, as in a rollout's section."""
    base = coin(1, 1000, 0.5)
    models = {}
    for name, values in (("old", base), ("new", changed(base, 10, 80))):
        models[name] = publish_model(store, name).id
        folder = write_evaluation(tmp_path / name, {"arc_easy": {"arc_easy": values}}, model=models[name])
        publish_evaluation(store, folder, f"evals-{name}", find_artifact(store, models[name]))
    recipe = tmp_path / "docs.yaml"
    recipe.write_text(
        f"""store: {store.url}
objective: {{not_worse: {{average: 0.02, arc_easy: 0.02}}}}
serving:
  variants:
  - {{name: base, model: {models["old"]}}}
  - {{name: tuned, model: {models["new"]}, weight: 0}}
  rollout: {{candidate: tuned, baseline: base}}
"""
    )
    assert run_command(["gate", "--recipe", str(recipe)]) == 1
    out = capsys.readouterr().out
    assert f"candidate {models['new']}\nbaseline  {models['old']}" in out


def test_a_recipe_without_a_rollout_means_the_last_two_that_it_evaluates(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own evaluations, found by identity: one of another recipe in the store does not count."""
    from pipelines.graph import build_graph, identities
    from pipelines.recipe import load_recipe

    recipe = tmp_path / "docs.yaml"
    recipe.write_text(
        f"store: {store.url}\nobjective: {{not_worse: {{arc_easy: 0.02}}}}\n"
        "pretrain: {}\nfinetune: {}\nevals: {benchmarks: sample}\n"
    )
    found = identities(build_graph(load_recipe(recipe)))
    base = coin(1, 1000, 0.5)
    for name, values in (("pretrain", base), ("finetune", changed(base, 60, 30))):
        folder = write_evaluation(tmp_path / name, {"arc_easy": {"arc_easy": values}}, model=f"Model/{name}")
        publish_evaluation(store, folder, f"evals-{name}", identity=found[f"evals-{name}"])
    publish_evaluation(store, folder, "evals-finetune")
    assert run_command(["gate", "--recipe", str(recipe), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["candidate"], told["baseline"]) == ("Model/finetune", "Model/pretrain")
    assert find_artifact(store, told["decision"]).inputs["candidate"].id == found["evals-finetune"].id
