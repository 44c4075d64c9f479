"""Labels, their weights and scores, texts as tokens, and what a recipe with a classifier may say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from sklearn.utils.class_weight import compute_class_weight

from cluster.artifact import Artifact
from cluster.config import parse_document
from cluster.errors import UserError
from pipelines.cli import run_command
from pipelines.finetune.classification.encode import TextEncoder, TextSamples, parts
from pipelines.finetune.classification.labels import ordered, weights_of
from pipelines.finetune.classification.load import LoadedTexts, load_texts
from pipelines.finetune.classification.objective import LabelObjective
from pipelines.finetune.classification.scores import score
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Labelled, parse_jsonl, to_jsonl
from pipelines.finetune.load import load_tokenizer
from pipelines.graph import build_graph
from pipelines.headlines import headline
from pipelines.lifecycle import _check_objective
from pipelines.recipe import Recipe, validate_recipe

GOOD = [{"text": f"a text {number}", "label": ("bad", "good")[number % 2]} for number in range(20)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, rows: Sequence[dict[str, Any]], **fields: Any) -> LoadedTexts:
    values = {"task": "classification", "data": str(write(path / "rows.jsonl", rows)), "validation_fraction": 0.3}
    return load_texts(FinetuneConfig.model_validate(values | fields))


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, guessed = [a for a, _ in pairs], [b for _, b in pairs]
    found = score(true, guessed, ["a", "b", "c", "d"])
    assert found.accuracy == accuracy_score(true, guessed)
    assert found.confusion == tuple(map(tuple, confusion_matrix(true, guessed, labels=range(4)).tolist()))
    *macro, _ = precision_recall_fscore_support(true, guessed, average="macro", zero_division=0)
    assert (found.precision, found.recall, found.f1) == pytest.approx(macro)
    each = precision_recall_fscore_support(true, guessed, labels=range(4), zero_division=0)
    ours = [[getattr(one, name) for one in found.by_label] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(ours, each)
    assert found.majority == max(map(true.count, true)) / len(true)
    assert found.metrics("validation")["validation.f1.c"] == found.by_label[2].f1


@settings(max_examples=30)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_balanced_weights_are_those_of_scikit_learn(labels: list[str]) -> None:
    names = ordered(labels)
    expected = compute_class_weight("balanced", classes=np.array(names), y=labels)
    np.testing.assert_allclose(weights_of(names, labels, "balanced") or [], expected)


def test_weights_by_name() -> None:
    assert weights_of(("a", "b"), [], {"b": 3.0}) == [1.0, 3.0]
    assert weights_of(("a", "b"), [], None) is None
    with pytest.raises(UserError, match="'goood' is no label; did you mean good"):
        weights_of(("bad", "good"), [], {"goood": 2.0})
    with pytest.raises(UserError, match="no example to train on has the label 'b'"):
        weights_of(("a", "b"), ["a"], "balanced")


class Fixed(torch.nn.Module):
    """A model whose logits are its parameters."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor, **further: Any) -> Any:
        return self


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
def test_the_loss_is_torchs_weighted_cross_entropy(weights: list[float] | None) -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, 1, 0, 2])
    model = Fixed(logits.clone())
    loss, sums = LabelObjective(model, weights)(torch.zeros(7, 1), labels, {})
    from pipelines.finetune.classification.encode import EncodedText

    samples = TextSamples([EncodedText((1,), (0,), int(each)) for each in labels], 0, weights=weights)
    mean = loss / samples.weight(np.arange(7))
    expected = torch.nn.CrossEntropyLoss(weight=None if weights is None else torch.tensor(weights))(
        model.logits, labels
    )
    assert mean.item() == pytest.approx(expected.item(), abs=1e-6)
    assert float(sums[1]) == float((logits.argmax(-1) == labels).sum())  # each text counts once, whatever its weight
    (theirs,) = torch.autograd.grad(expected, model.logits, retain_graph=True)
    (ours,) = torch.autograd.grad(mean, model.logits)
    torch.testing.assert_close(ours, theirs)
    ignored = LabelObjective(Fixed(logits), weights)(torch.zeros(7, 1), torch.full((7,), -100), {})
    assert float(ignored[0]) == 0.0 and not ignored[1].any()


def test_labels_are_numbered_by_name_or_by_value(tmp_path: Path) -> None:
    assert ordered(["b", "a", "b"]) == ("a", "b")
    assert ordered(["10", "9", "-1"]) == ("-1", "9", "10")
    assert load(tmp_path, GOOD).labels == ("bad", "good")
    rows = [{"sentence": f"t {n}", "label": n % 3, "idx": n} for n in range(30)]
    loaded = load(tmp_path, rows)
    assert loaded.labels == ("0", "1", "2")
    assert len(loaded.train) + len(loaded.validation) == 30
    flags = load(tmp_path, [{"text": f"t {n}", "label": n % 2 == 0} for n in range(20)])
    assert flags.labels == ("false", "true")
    given = load(tmp_path, rows, labels=["no", "perhaps", "yes"])
    assert given.labels == ("no", "perhaps", "yes")  # a number is a place in the list
    assert {each.label for each in given.train} == {"no", "perhaps", "yes"}
    assert parse_jsonl(to_jsonl(given.train)) == given.train
    assert {each.label for each in load(tmp_path, GOOD, subset=10).train} == {"bad", "good"}


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([*GOOD, {"text": "x", "label": None}], {}, r"rows.jsonl:21: label is missing or empty"),
        ([*GOOD, {"text": "x"}], {}, r"rows.jsonl:21: label is missing or empty"),
        ([{"text": "x"}], {}, r"rows.jsonl:1: label is missing or empty"),
        ([*GOOD, {"text": "x", "label": 0.5}], {}, r"rows.jsonl:21: label is 0.5, neither a name nor a whole number"),
        ([*GOOD, {"text": " ", "label": "good"}], {}, r"rows.jsonl:21: text is missing, empty or not text"),
        ([*GOOD, {"text": "x", "pair": "", "label": "good"}], {}, r"rows.jsonl:21: pair is missing, empty or not text"),
        (
            [*GOOD, {"text": "x", "label": "god"}],
            {"labels": ["bad", "good"]},
            r"rows.jsonl:21: its label 'god' is none of finetune.labels; did you mean good",
        ),
        (
            [row | {"label": "good"} for row in GOOD],
            {},
            r"rows.jsonl:\d+: all 20 rows have the label 'good': there is nothing to tell apart",
        ),
        (GOOD, {"subset": 1}, "finetune.subset, the first .*all 1 rows have the label"),
        (
            [*GOOD, *({"text": f"rare {n}", "label": "rare"} for n in (2, 13))],
            {},
            r"rows.jsonl:2[12]: its label 'rare' is held out for validation, and no example to train on has it",
        ),
        (GOOD, {"class_weights": {"god": 2.0}}, "finetune.class_weights: 'god' is no label; did you mean good"),
    ],
)
def test_rows_that_cannot_be_classified_are_named(
    rows: list[dict[str, Any]], fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, rows, **fields)


def test_bad_rows_may_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [*GOOD, {"text": "x"}, {"text": "x", "label": "god"}])
    data = {"kind": "jsonl", "path": str(path), "bad_rows": "skip"}
    config = {"task": "classification", "data": data, "labels": ["bad", "good"]}
    loaded = load_texts(FinetuneConfig.model_validate(config))
    assert len(loaded.train) + len(loaded.validation) == 20
    assert [each.partition(": ")[0] for each in loaded.bad] == ["r.jsonl:21", "r.jsonl:22"]


def test_tokens_are_those_of_the_tokenizer_and_padding_is_masked(bases: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(bases["bert"])
    assert not parts(tokenizer)
    encoder = TextEncoder(tokenizer, ("no", "yes"), 64, "refuse")
    texts = [Labelled("words", None, "yes", "r:1"), Labelled("words words", "other", "no", "r:2")]
    found = encoder.encode_all(texts).encoded
    assert list(found[0].ids) == tokenizer("words").input_ids and found[0].label == 1
    # Our tokenizers put nothing between two texts: the token that ends one does.
    assert list(found[1].ids) == tokenizer("words words<|eos|>other").input_ids
    batch = TextSamples(found, 2, kinds=True).batch(np.array([0, 1]))
    assert batch.labels.tolist() == [1, 0]
    assert batch.arguments["attention_mask"].sum(1).tolist() == [len(each) for each in found]
    assert set(batch.inputs[0, len(found[0]) :].tolist()) == {2}
    long = [Labelled("words " * 80, None, "no", "r:3")]
    with pytest.raises(UserError, match=r"r:3: \d+ tokens are more than the 64 that fit"):
        encoder.encode_all(long)
    assert TextEncoder(tokenizer, ("no", "yes"), 64, "drop").encode_all(long).dropped == ["r:3"]
    for side in ("left", "right"):
        (cut,) = TextEncoder(tokenizer, ("no", "yes"), 64, side).encode_all(long).encoded  # type: ignore[arg-type]
        assert len(cut) == 64 and cut.ids[0] == tokenizer.bos_token_id


def test_a_tokenizer_that_separates_two_texts_is_asked_for_both() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4, "b": 5}, "[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, sep_token="[SEP]", cls_token="[CLS]", pad_token="[PAD]")
    encoder = TextEncoder(tokenizer, ("no", "yes"), 6, "left")
    (text,) = encoder.encode_all([Labelled("a a", "b", "no")]).encoded
    assert text.ids == (1, 4, 4, 2, 5, 2) and text.kinds == (0, 0, 0, 0, 1, 1)
    (cut,) = encoder.encode_all([Labelled("a a a", "b", "no")]).encoded
    assert cut.ids == (1, 4, 4, 2, 5, 2)


DATA = "task: classification, data: rows.jsonl"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finetune: {task: classification}", "classification learns from rows such as"),
        (f"finetune: {{{DATA}, packing: true}}", "packing means nothing to task classification"),
        (f"finetune: {{{DATA}, method: adapter}}", "bottleneck adapters have no place for a classifier's head"),
        (f"finetune: {{{DATA}, labels: [a, a]}}", "labels names one twice"),
        (f"finetune: {{{DATA}, class_weights: {{a: 0}}}}", "a has the weight 0: write a number above 0"),
        ("finetune: {labels: [a, b], data: rows.jsonl}", "labels means nothing to task generation"),
        (f"finetune: {{{DATA}, parallel: {{tensor: 2}}}}", "adapters train with parallel.data or parallel.shard"),
        (f"pretrain: {{architecture: t5}}\ntokenizer: {{sentinels: 99}}\nfinetune: {{{DATA}}}", "no classifier on t5"),
        (f"finetune: {{{DATA}, model: m}}\nevals:", "every suite asks a model that writes"),
        (f"finetune: {{{DATA}}}\nalign: {{data: p.jsonl}}", "it needs a model that writes, and finetune makes a class"),
        (
            f'finetune: {{{DATA}}}\nserving: {{variants: [{{name: a, model: "@finetune", weight: 1}}]}}',
            "@finetune is a classifier .variant a., and Raymill serves models that write",
        ),
    ],
)
def test_what_does_not_go_with_a_classifier_is_said_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate_recipe(parse_document(text, "recipe.yaml"))


def recipe(text: str) -> Recipe:
    return validate_recipe(parse_document(text, "recipe.yaml"))


def test_a_classifier_is_a_kind_of_its_own_and_is_not_evaluated_as_a_writer() -> None:
    nodes = {each.name: each for each in build_graph(recipe(f"pretrain:\nfinetune: {{{DATA}}}\nevals:\n"))}
    assert nodes["finetune"].stage.kind == "ClassifierAdapter"
    assert "evals-pretrain" in nodes and "evals-finetune" not in nodes
    for more in ("method: full", "merge: true"):
        nodes = {each.name: each for each in build_graph(recipe(f"finetune: {{{DATA}, model: m, {more}}}"))}
        assert nodes["finetune"].stage.kind == "Classifier"
        assert nodes["finetune-base"].config.causal is False  # type: ignore[attr-defined]
    bert = "pretrain: {architecture: bert}\ntokenizer: {mask_token: true}\n"
    assert {each.name for each in build_graph(recipe(f"{bert}finetune: {{{DATA}}}"))} >= {"pretrain", "finetune"}


def test_a_target_may_name_what_a_stage_measured() -> None:
    text = "objective: {targets: {finetune.validation.accuracy: '>= 0.9', finetune.validation.f1.good: '>= 0.9'}}\n"
    metrics = {"validation.accuracy": 0.95, "validation.majority_accuracy": 0.5}
    counts = {"labels": 2, "trained_parameters": 10, "training_sequences": 4}
    made = Artifact(
        kind="Classifier",
        name="finetune",
        fingerprint="0" * 16,
        identity={},
        attempt="a",
        files=[],
        counts=counts,
        metrics=metrics,
    )
    results = _check_objective(recipe(text), {"finetune": made})
    assert [each.met for each in results] == [True, False]
    assert _check_objective(recipe("objective: {targets: {arc_easy.acc: '>= 0.9'}}\n"), {"finetune": made}) == []
    assert "held-out accuracy 0.95 (always the most frequent label 0.50)" in headline(made)


def test_a_plan_shows_tokens_labels_and_what_the_result_is_good_for(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", GOOD)
    path = tmp_path / "r.yaml"
    path.write_text(f"finetune: {{task: classification, model: {bases['bert']}, data: {data}, method: full}}\n")
    arguments = ["plan", str(path), "--store", str(tmp_path / "store"), "--examples", "2"]
    assert run_command(arguments) == 0
    shown = capsys.readouterr().out
    assert "finetune makes a classifier, which raymill does not serve" in shown
    assert "example 2, rows.jsonl:" in shown and "label good (1 of 2)" in shown
    assert run_command([*arguments[:-2], "--set", "finetune.method=lora"]) == 0
    assert "a classifier's adapter with its head, which neither raymill nor vLLM serves: merge it" in (
        capsys.readouterr().out
    )
