"""Classifiers trained as a worker trains them: what is learned, one step by hand, broken off, written and merged."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, pipeline

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.store import open_store
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.finetune.classification.model import load_classifier
from pipelines.finetune.classification.task import ClassificationTask
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Labelled, to_jsonl
from pipelines.tune.reported import is_of_a_class, reported
from tests.pipelines.one_process import TaskBench, measured, run_section

LABELS = ("calm", "loud")


def texts(count: int, seed: int) -> list[Labelled]:
    """A text of five letters is loud where it ends with a mark that shouts; half of them do."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        loud = number % 2
        made.append(
            Labelled("".join(draw.choices("abcd", k=5)) + ".!"[loud], None, LABELS[loud], f"rows.jsonl:{number}")
        )
    return made


class Bench(TaskBench):
    """Trains classifiers in a store of its own."""

    def __init__(self, folder: Path, model: Path, publish: Callable[..., Artifact], rows: int = 64) -> None:
        super().__init__(open_store(folder))
        self.base, self.model = publish(self.store, model, "Model", "base"), model
        self.keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        self.parts = {"train": texts(rows, 1), "validation": texts(40, 2)}
        for part, key in self.keys.items():
            self.store.write(key, to_jsonl(self.parts[part]).encode())

    def task(self, **fields: Any) -> ClassificationTask:
        values = {"task": "classification", "data": "rows.jsonl", "batch_sequences": 16, "workers": 1, "seed": 5}
        values |= {"checkpoint_every_steps": 2, "warmup_fraction": 0.0, "validation_sequences": 40}
        config = FinetuneConfig.model_validate(values | fields)
        return ClassificationTask(config, self.base, self.keys, LABELS)


def vivid(base: Path, folder: Path) -> Path:
    """A bert whose layers' matrices are eight times as large."""
    shutil.copytree(base, folder)
    model = AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if ".layer." in name and each.ndim == 2:
                each.mul_(8)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def make_bench(tmp_path: Path, bases: dict[str, Path], publish_model: Callable[..., Artifact]) -> Callable[..., Bench]:
    def make(name: str, base: str, rows: int = 64) -> Bench:
        folder = vivid(bases["bert"], tmp_path / "vivid") if base == VIVID else bases[base]
        return Bench(tmp_path / name, folder, publish_model, rows)

    return make


slow = pytest.mark.slow
VIVID = "vivid bert"
"""A frozen one of fresh weights hardly mixes its positions: what its first token says of the last is lost in rounding,
and the lighter methods cannot change that. With larger matrices it does."""

FITTING: list[Any] = [
    ("bert", {"method": "full", "learning_rate": 5e-3}),
    ("llama", {"method": "lora", "learning_rate": 1e-2}),
    pytest.param("bert", {"method": "lora", "learning_rate": 1e-2, "merge": True}, marks=slow),
    pytest.param(VIVID, {"method": "ia3", "learning_rate": 3e-2}, marks=slow),
    pytest.param("bert", {"method": "lora", "dora": True, "learning_rate": 1e-2}, marks=slow),
    pytest.param(VIVID, {"method": "prompt", "virtual_tokens": 4, "learning_rate": 3e-2}, marks=slow),
    pytest.param(VIVID, {"method": "p-tuning", "virtual_tokens": 4, "learning_rate": 1e-2}, marks=slow),
    pytest.param(VIVID, {"method": "prefix", "virtual_tokens": 4, "learning_rate": 3e-2}, marks=slow),
    pytest.param("llama", {"method": "full", "learning_rate": 5e-3}, marks=slow),
    pytest.param("llama", {"method": "ia3", "learning_rate": 3e-2, "merge": True}, marks=slow),
    pytest.param("llama", {"method": "prefix", "virtual_tokens": 4, "learning_rate": 3e-2}, marks=slow),
    pytest.param("gpt2", {"method": "full", "learning_rate": 5e-3}, marks=slow),
    pytest.param("gpt2", {"method": "lora", "learning_rate": 1e-2}, marks=slow),
]


@pytest.mark.parametrize(("base", "settings"), FITTING)
def test_a_rule_is_learned_and_what_is_written_knows_it(
    make_bench: Callable[..., Bench], base: str, settings: dict[str, Any]
) -> None:
    bench = make_bench("store", base)
    summary = bench.run(bench.task(steps=60, validation_every_steps=60, checkpoint_every_steps=60, **settings))
    details = summary["details"]
    assert details["metrics"]["validation.majority_accuracy"] == 0.5
    assert details["metrics"]["validation.accuracy"] >= 0.9
    assert details["export_difference"] <= 1e-4
    checks = [each for each in summary["records"] if each["kind"] == "validation"]
    assert checks[-1]["accuracy"] == pytest.approx(details["metrics"]["validation.accuracy"])
    folder = Path(bench.store.local_path("try"))
    if settings["method"] == "full" or settings.get("merge"):
        told = pipeline("text-classification", model=str(folder), device="cpu")
        given = [each["label"] for each in told([each.text for each in bench.parts["validation"]], batch_size=8)]
        right = sum(a == b.label for a, b in zip(given, bench.parts["validation"], strict=True))
        assert right / 40 == pytest.approx(details["metrics"]["validation.accuracy"])
        loaded, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values())
        assert loaded.config.id2label == {0: "calm", 1: "loud"}
    else:
        settings_of = AutoConfig.from_pretrained(folder)
        assert settings_of.id2label == {0: "calm", 1: "loud"}
        untouched = AutoModelForSequenceClassification.from_pretrained(bench.model, config=settings_of)
        again = PeftModel.from_pretrained(untouched, folder)  # the head comes with the adapter
        assert any("modules_to_save" in name for name in again.state_dict())
        text = (folder / "config.json").read_text() + (folder / "adapter_config.json").read_text()
        assert str(bench.model) not in text and str(bench.store.url) not in text


def by_hand(
    bench: Bench, task: ClassificationTask, steps: int, weights: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """The same training with nothing of ours but the order of the texts: transformers, peft, torch."""
    config = task.config
    torch.manual_seed(config.seed)
    names = dict(enumerate(LABELS))
    base = AutoModelForSequenceClassification.from_pretrained(
        bench.model, id2label=names, label2id={b: a for a, b in names.items()}, dtype=torch.float32
    )
    model: Any = base
    if config.method == "lora":
        matrices = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        model = get_peft_model(
            base, LoraConfig(r=8, lora_alpha=16, target_modules=sorted(matrices), task_type="SEQ_CLS")
        )
    from transformers import AutoTokenizer

    from pipelines.train.order import BatchOrder

    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=config.betas, weight_decay=0.0)
    order = BatchOrder(config.batch_sequences, len(bench.parts["train"]), config.seed)
    model.train()
    for step in range(steps):
        rows = [bench.parts["train"][int(number) % len(bench.parts["train"])] for number in order.visits(step)]
        batch = tokenizer([each.text for each in rows], padding=True, return_tensors="pt")
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        labels = torch.tensor([LABELS.index(each.label) for each in rows])
        torch.nn.functional.cross_entropy(logits, labels, weight=weights).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize(
    ("base", "method", "weights"),
    [
        ("bert", "full", {"loud": 3.0}),
        ("llama", "lora", None),
        pytest.param("llama", "lora", {"loud": 3.0}, marks=slow),
        pytest.param("gpt2", "full", None, marks=slow),
    ],
)
def test_steps_are_those_of_transformers_and_peft(
    make_bench: Callable[..., Bench], base: str, method: str, weights: dict[str, float] | None
) -> None:
    bench = make_bench("store", base, rows=30)
    task = bench.task(
        method=method, steps=2, schedule="constant", class_weights=weights, learning_rate=1e-3, batch_sequences=7
    )
    seen: dict[str, torch.Tensor] = {}
    finish = task.finish

    def look(model: Any, folder: Path, probe: Any) -> dict[str, Any]:
        seen.update({name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad})
        return finish(model, folder, probe)

    task.finish = look  # type: ignore[method-assign]
    bench.run(task)
    expected = by_hand(bench, task, 2, torch.tensor([1.0, weights["loud"]]) if weights else None)
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("c_attn.bias"):  # a key's bias has no gradient but rounding, which Adam makes steps of
            width = len(value) // 3
            value[width : 2 * width] = seen[name][width : 2 * width]
        torch.testing.assert_close(seen[name], value, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("bert", {"method": "lora", "dropout": 0.1, "class_weights": "balanced"}),
        pytest.param("llama", {"method": "full", "l2_sp": 0.1, "layer_decay": 0.8}, marks=slow),
        pytest.param("llama", {"method": "prefix", "virtual_tokens": 2}, marks=slow),
    ],
)
def test_a_run_that_is_broken_off_ends_with_the_same_bytes(
    make_bench: Callable[..., Bench], base: str, settings: dict[str, Any]
) -> None:
    whole, cut = make_bench("whole", base), make_bench("cut", base)
    summary = whole.run(whole.task(steps=6, **settings))
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.task(steps=6, **settings), stop_at=6)
    again = cut.run(cut.task(steps=6, **settings))
    assert again["resumed_at"] == 4
    assert measured(again) == measured(summary)
    assert cut.written() == whole.written() != {}
    assert again["details"] == summary["details"]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_weights(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench("store", "llama")
    fields = {"method": "lora", "learning_rate": 0.1, "schedule": "constant", "max_rollbacks": 0, "loss_spike": 1e9}
    summary = bench.run(bench.task(steps=60, early_stopping=2, validation_every_steps=4, **fields))
    assert summary["steps"] < 60
    losses = {
        each["step"]: each["loss"] for each in summary["records"] if each["kind"] == "validation" and each["step"]
    }
    assert losses[summary["chosen_step"]] == min(losses.values()) == summary["validation_loss"]


@pytest.mark.parametrize(
    ("base", "method", "message"),
    [
        ("llama", "prompt", "a classifier on llama reads the padding behind a text"),
        ("gpt2", "p-tuning", "a classifier on gpt2 reads the padding behind a text"),
    ],
)
def test_methods_that_do_not_fit_a_model_are_refused(
    make_bench: Callable[..., Bench], base: str, method: str, message: str
) -> None:
    bench = make_bench("store", base)
    with pytest.raises(UserError, match=message):
        bench.run(bench.task(method=method, steps=2))


def test_a_head_for_other_labels_is_made_anew(bases: dict[str, Path], tmp_path: Path) -> None:
    model, new = load_classifier(bases["bert"], LABELS, 2)
    assert new == ["bert.pooler.dense"]  # masked language models have none
    with torch.no_grad():
        model.classifier.weight.fill_(1.0)
    model.save_pretrained(tmp_path)
    same, new = load_classifier(tmp_path, LABELS, 2)
    assert new == [] and bool((same.classifier.weight == 1.0).all())
    for labels in (("loud", "calm"), ("a", "b", "c")):
        other, _ = load_classifier(tmp_path, labels, 2)
        assert other.classifier.out_features == len(labels)
        assert not (other.classifier.weight == 1.0).any()
        torch.testing.assert_close(other.bert.pooler.dense.weight, same.bert.pooler.dense.weight)


@pytest.mark.usefixtures("without_ray")
def test_the_whole_stage_and_its_adapter_merged(
    bases: dict[str, Path], store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": each.text, "label": each.label} for each in texts(60, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = (
        f"{{task: classification, model: {bases['bert']}, data: {tmp_path / 'rows.jsonl'}, steps: 4, workers: 1, "
        "validation_fraction: 0.2, class_weights: balanced}"
    )
    made = run_section(section, store)
    artifact = made["finetune"]
    assert artifact.kind == "ClassifierAdapter"
    assert {"validation.accuracy", "validation.f1_macro", "validation.recall.loud"} <= artifact.metrics.keys()
    assert "validation.perplexity" not in artifact.metrics
    known = FinetuneConfig.model_validate({"task": "classification", "data": "rows.jsonl"})
    assert {each for each in artifact.metrics if not is_of_a_class(known, each)} == set(reported(known))
    assert sum(map(sum, artifact.details["confusion"])) == artifact.counts["validation_sequences"]
    page = store.read(artifact.key("report.html")).decode()
    assert "Confusion" in page and "→ loud" in page and "held-out accuracy" in page
    last = json.loads(store.read(artifact.key("metrics.jsonl")).splitlines()[-1])
    assert last["confusion"] == artifact.details["confusion"] and "validation.precision.calm" in last
    record = json.dumps([each.model_dump(mode="json", exclude={"provenance"}) for each in made.values()])
    assert str(tmp_path) not in record and str(bases["bert"]) not in record

    target = tmp_path / "merged"
    assert run_command(["merge", "finetune", str(target), "--store", store.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-4
    model, loading = AutoModelForSequenceClassification.from_pretrained(target, output_loading_info=True)
    assert not any(loading.values()) and model.config.label2id == {"calm": 0, "loud": 1}
