"""A search is checked before anything starts: keys, values, the metric, and whether trials can be compared."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.config import apply_overrides, parse_document
from cluster.errors import UserError
from pipelines.graph import build_graph
from pipelines.pretrain import PretrainConfig
from pipelines.tune.capacity import Need, Room, need_of, room_for
from pipelines.tune.objective import PRETRAINING, Objective, chain
from pipelines.tune.search import Search, plan_search

RECIPE = """\
name: tiny
corpus: {sources: [{kind: jsonl, path: docs.jsonl}]}
pretrain:
  steps: 50
  batch_sequences: 8
finetune:
evals: {benchmarks: sample}
tune:
  metric: METRIC
  trials: 4
  space:
    SPACE
"""


@pytest.fixture(autouse=True)
def documents(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def plan(
    space: str = "pretrain.learning_rate: {uniform: [0.001, 0.01]}",
    *overrides: str,
    metric: str = "pretrain.validation.loss",
) -> Search:
    document = parse_document(RECIPE.replace("SPACE", space).replace("METRIC", metric), "r.yaml")
    return plan_search(apply_overrides(document, overrides))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("pretrain.learning_rat: {uniform: [0, 1]}", r"r.yaml:12: pretrain.learning_rat: .*did you mean learning_rate"),
        ("pretran.steps: {integers: [1, 2]}", r"r.yaml:12: pretran: unknown key; did you mean pretrain"),
        ("pretrain.parallel.tensr: {choice: [1, 2]}", r"r.yaml:12: pretrain.parallel.tensr: .*did you mean tensor"),
        ("corpus.sources.0.max_byts: {choice: [9]}", r"r.yaml:12: corpus.sources.0.max_byts: unknown key"),
        ("corpus.sources.3.path: {choice: [a]}", r"r.yaml:12: corpus.sources.3.path: 3 does not exist"),
        ("pretrain.learning_rate: {uniform: [-1, 1]}", r"r.yaml:12: pretrain.learning_rate: .*greater than 0"),
        ("pretrain.warmup_fraction: {choice: [0, 1.5]}", r"r.yaml:12: pretrain.warmup_fraction: .*less than 1"),
        ("pretrain.schedule: {grid: [cosine, sine]}", r"r.yaml:12: pretrain.schedule: .*'cosine'"),
        ("pretrain.steps: {loguniform: [1.5, 2]}", r"r.yaml:12: pretrain.steps: must be a whole number"),
        ("pretrain.steps: {int: [1, 2]}", r"r.yaml:12: tune.space.pretrain.steps.int: .*did you mean integers"),
        ("store: {choice: [a, b]}", "no trial can change"),
        ("cluster.address: {choice: [a, b]}", "no trial can change"),
        ("pretrain.workers: {choice: [1, 2]}", "r.yaml:12: pretrain.workers changes nothing"),
        ("finetune.rank: {choice: [4, 8]}", "finetune.rank changes nothing that pretrain.validation.loss"),
        ("tokenizer.vocab_size: {choice: [512, 1024]}", "r.yaml:12: tokenizer.vocab_size changes what a token is"),
        ("pretrain: {choice: [{steps: 1}]}\n    pretrain.seed: {choice: [1]}", "pretrain holds pretrain.seed"),
        ("finetune.dropout: {choice: [2]}", "finetune.dropout: .*less than 1"),
    ],
)
def test_a_space_that_cannot_be_is_told_with_its_line(space: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(space)
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("pretrain.validation.los", "r.yaml:9: pretrain reports no validation.los; did you mean validation.loss"),
        ("pretrian.loss", "r.yaml:9: pretrian.loss is no metric.*did you mean pretrain"),
        ("align.reward", "no metric of a stage|the recipe has no align"),
    ],
)
def test_a_metric_that_no_stage_reports(metric: str, message: str) -> None:
    overrides = ("evals=null",) if metric != "align.reward" else ()
    text = RECIPE if not overrides else RECIPE.replace("evals: {benchmarks: sample}\n", "")
    if metric == "align.reward":
        text = text.replace("evals: {benchmarks: sample}\n", "")
    text = text.replace("METRIC", metric).replace("SPACE", "pretrain.seed: {choice: [1, 2]}")
    line = 9 if "evals" in text else 8
    with pytest.raises(UserError, match=message.replace("r.yaml:9", f"r.yaml:{line}")):
        plan_search(parse_document(text, "r.yaml"))


LEARNERS = {
    "finetune": "finetune: {data: docs.jsonl, forgetting: docs.jsonl}",
    "align": "align: {data: docs.jsonl}",
}


@pytest.mark.parametrize(
    ("change", "metric", "message"),
    [
        ((), "finetune.validation.los", "finetune reports no validation.los; did you mean validation.loss"),
        ((), "finetune.validation.accuracy", "finetune reports no validation.accuracy"),
        ((), "finetune.validation.bleu", "finetune reports no validation.bleu"),
        (("finetune.answers_scored=8",), "finetune.validation.bleu", None),
        ((), "finetune.forgetting.loss", None),
        (("finetune.forgetting=null",), "finetune.forgetting.loss", "finetune reports no forgetting.loss"),
        (("finetune.task=classification", "finetune.forgetting=null"), "finetune.validation.f1_macro", None),
        (("finetune.task=classification", "finetune.forgetting=null"), "finetune.validation.recall.spam", None),
        (
            ("finetune.task=classification", "finetune.forgetting=null", "finetune.labels=[ham, span]"),
            "finetune.validation.recall.spam",
            "finetune reports no validation.recall.spam",
        ),
        ((), "align.validation.kl_per_token", None),
        (("align.method=simpo",), "align.validation.kl_per_token", "align reports no validation.kl_per_token"),
        ((), "align.validation.reward", "align reports no validation.reward"),
        (("align.method=ppo", "align.reward='a:b'"), "align.validation.reward", None),
        (
            ("tune.space={align.method: {choice: [dpo, simpo]}}",),
            "align.validation.kl_per_token",
            "align reports no validation.kl_per_token",
        ),
    ],
)
def test_a_metric_that_fine_tuning_or_alignment_will_not_report_is_known_before_anything_is_trained(
    change: tuple[str, ...], metric: str, message: str | None
) -> None:
    section = metric.partition(".")[0]
    tune = f"tune: {{metric: {metric}, trials: 9, space: {{{section}.seed: {{choice: [1, 2]}}}}}}"
    document = apply_overrides(parse_document(f"{LEARNERS[section]}\n{tune}", "r.yaml"), change)
    if message is None:
        assert plan_search(document).objective.name == metric
        return
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        plan_search(document)
    assert "it reports validation.loss" in caught.value.next_step


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("pretrain.validation.loss", "min"),
        ("finetune.validation_perplexity", "min"),
        ("pretrain.tokens_per_second", "max"),
        ("arc_easy.acc", "max"),
        ("evals-finetune.truthfulqa_mc2.acc", "max"),
        ("heldout.bits_per_byte", "min"),
    ],
)
def test_which_side_is_the_best_follows_from_the_metric_unless_it_is_said(metric: str, mode: str) -> None:
    seed = "finetune.seed: {choice: [1, 2]}" if "tune" in metric else "pretrain.seed: {choice: [1, 2]}"
    assert plan(seed, metric=metric).objective.mode == mode
    assert plan(seed, "tune.mode=min", metric=metric).objective.mode == "min"


def test_a_recipe_without_the_section() -> None:
    with pytest.raises(UserError, match="the recipe has no section tune"):
        plan_search(parse_document("name: x\n", "r.yaml"))


@pytest.mark.parametrize(
    ("metric", "node", "trained"),
    [
        ("pretrain.validation_loss", "pretrain", "pretrain"),
        ("finetune.validation.loss", "finetune", "finetune"),
        ("heldout.perplexity", "evals-finetune", "finetune"),
        ("evals-pretrain.arc_easy.acc", "evals-pretrain", "pretrain"),
        ("curate.documents", "curate", None),
    ],
)
def test_where_a_metric_is_measured(metric: str, node: str, trained: str | None) -> None:
    space = "curate.language: {choice: [[en], [de]]}" if trained is None else "pretrain.seed: {choice: [1, 2]}"
    search = plan(space, metric=metric)
    assert (search.objective.node, search.trained) == (node, trained)


def test_only_stages_below_a_changed_key_differ() -> None:
    search = plan()
    assert [node.name for node, _ in search.shared] == ["corpus", "curate", "tokenizer", "tokens"]
    assert [node.name for node in search.own] == ["pretrain"]
    search = plan("finetune.rank: {choice: [4, 8]}", metric="finetune.validation.loss")
    assert [node.name for node in search.own] == ["finetune"]
    assert "evals-finetune" not in [node.name for node, _ in search.shared]
    search = plan("curate.quality: {choice: [[gopher], [c4]]}")
    assert [node.name for node, _ in search.shared] == ["corpus"]


def test_the_name_follows_from_what_decides() -> None:
    base = plan().id
    assert re.fullmatch(r"tiny-[0-9a-f]{12}", base)
    same = ["tune.trials=9", "tune.max_seconds=5", "tune.concurrent=2", "pretrain.workers=1", "store=elsewhere"]
    other = ["tune.seed=2", "tune.mode=max", "pretrain.steps=51", "tune.scheduler=asha"]
    assert {plan(override_free, override).id for override in same for override_free in [SPACE]} == {base}
    assert len({plan(SPACE, override).id for override in other} | {base}) == len(other) + 1


SPACE = "pretrain.learning_rate: {uniform: [0.001, 0.01]}"


def test_values_that_do_not_go_together_cost_one_trial_and_not_the_search() -> None:
    space = "pretrain.batch_sequences: {grid: [1, 8]}\n    pretrain.workers: {grid: [1, 2]}\n    " + SPACE
    with pytest.raises(UserError, match=r"pretrain\.workers changes nothing"):
        plan(space)
    space = "pretrain.batch_sequences: {grid: [1, 8]}"
    search = plan(space, "pretrain.workers=2")
    assert [bool(trial.recipe) for trial in search.trials] == [False, True]
    assert "without a sequence" in search.trials[0].problem
    with pytest.raises(UserError, match="no trial's values go together"):
        plan("pretrain.batch_sequences: {choice: [1]}", "pretrain.workers=2", "tune.trials=1")


def test_asha_needs_a_stage_that_trains() -> None:
    with pytest.raises(UserError, match="asha compares trials while they train"):
        plan("curate.language: {choice: [[en], [de]]}", "tune.scheduler=asha", metric="curate.documents")
    with pytest.raises(UserError, match="asha compares"):
        plan("tokenizer.vocab_size: {choice: [512, 1024]}", "tune.scheduler=asha", metric="heldout.bits_per_byte")
    assert plan("tokenizer.vocab_size: {choice: [512, 1024]}", metric="heldout.bits_per_byte").trained == "finetune"


def test_trials_have_their_values_and_nothing_else_changed() -> None:
    search = plan()
    for trial in search.trials:
        assert trial.recipe is not None
        assert trial.recipe.tune is None
        expected = search.recipe.pretrain.model_copy(update={"learning_rate": trial.proposal.values[KEY]})
        assert trial.recipe.pretrain == expected
        assert trial.recipe.corpus == search.recipe.corpus


KEY = "pretrain.learning_rate"


def artifact(**metrics: float) -> Artifact:
    return Artifact(kind="Model", name="m", fingerprint="0" * 64, identity={}, attempt="a", files=[], metrics=metrics)


def test_reading_the_metric() -> None:
    made = artifact(**{"validation.loss": 2.0, "arc_easy.acc": 0.5, "arc.easy.acc": 0.4})
    assert Objective("pretrain", "validation_loss", "min").read(made) == 2.0
    assert Objective("evals", "arc_easy.acc", "min").read(made) == 0.5
    with pytest.raises(UserError, match=r"reports no validation\.lss; did you mean validation.loss"):
        Objective("pretrain", "validation.lss", "min").read(made)
    with pytest.raises(UserError, match="reports no arc_easy_acc"):
        Objective("evals", "arc_easy_acc", "min").read(made)


def test_what_pretraining_reports_is_what_it_reports() -> None:
    from pipelines.train.launch import Training
    from pipelines.train.results import training_outcome

    counts = ("parameters", "trained_parameters", "steps", "training_sequences", "validation_sequences")
    summary = dict.fromkeys(counts, 1) | {"validation_loss": 1.0, "tokens_per_second": 1.0}
    records = [{"kind": "train", "step": 1, "loss": 1.0, "tokens": 1}]
    assert set(training_outcome(Training("pretrain", summary, records)).metrics) == set(PRETRAINING)


@pytest.mark.parametrize(
    ("asked", "left", "cpus", "gpus", "cores", "expected"),
    [
        (None, 9, 8, 0, 2, (1, "2 of 2 cores each")),
        (None, 9, 8, 0, 64, (4, "2 of 8 CPUs each")),
        (None, 9, 8, 0, 1, (1, "2 of 1 cores each")),
        (3, 9, 8, 0, 2, (3, "tune.concurrent")),
        (9, 20, 8, 0, 2, (4, "2 of 8 CPUs each, so not 9")),
        (None, 2, 8, 0, 64, (2, "all that are left")),
    ],
)
def test_how_many_at_a_time(
    asked: int | None, left: int, cpus: float, gpus: float, cores: float, expected: tuple[int, str]
) -> None:
    room = room_for(Need("pretrain", 2, 2, 0), asked=asked, trials=left, cpus=cpus, gpus=gpus, cores=cores)
    assert room == Room(*expected)


def test_gpus_limit_before_cpus_do() -> None:
    room = room_for(Need("pretrain", 4, 4, 4), asked=None, trials=9, cpus=64, gpus=8, cores=64)
    assert room == Room(2, "4 of 8 GPUs each")


def test_the_widest_stage_decides() -> None:
    search = plan()
    recipe = search.trials[0].recipe
    assert recipe is not None
    nodes = chain(build_graph(recipe), "pretrain")
    wide = [replace(node, config=PretrainConfig(workers=6)) if node.name == "pretrain" else node for node in nodes]
    assert need_of([nodes, wide]) == Need("pretrain", 6, 6, 0)
