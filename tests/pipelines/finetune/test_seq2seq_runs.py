"""Encoder-decoders trained as a worker trains them: what is learned, steps by hand, broken off, written and merged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.store import open_store
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.examples.records import Conversation, dialogue, to_jsonl
from pipelines.finetune.load import load_tokenizer
from pipelines.finetune.seq2seq.model import target_marks
from pipelines.finetune.seq2seq.task import Seq2SeqTask
from pipelines.train.order import BatchOrder
from pipelines.tune.reported import reported
from tests.pipelines.one_process import TaskBench, measured, run_section

ANSWERS = {".": "calm and quiet", "!": "loud"}
slow = pytest.mark.slow


def pairs(count: int, seed: int) -> list[Conversation]:
    """Five letters, of which the mark at the end says what is to be written."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        mark = ".!"[number % 2]
        made.append(dialogue("".join(draw.choices("abcd", k=5)) + mark, ANSWERS[mark], f"rows.jsonl:{number}"))
    return made


class Bench(TaskBench):
    """Trains encoder-decoders in a store of its own."""

    def __init__(self, folder: Path, model: Path, publish: Callable[..., Artifact], rows: int = 64) -> None:
        super().__init__(open_store(folder))
        self.base, self.model = publish(self.store, model, "Model", "base"), model
        self.keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        self.parts = {"train": pairs(rows, 1), "validation": pairs(12, 2)}
        for part, key in self.keys.items():
            self.store.write(key, to_jsonl(self.parts[part]).encode())

    def task(self, **fields: Any) -> Seq2SeqTask:
        values = {"task": "seq2seq", "data": "rows.jsonl", "batch_sequences": 16, "workers": 1, "seed": 5}
        values |= {"checkpoint_every_steps": 2, "warmup_fraction": 0.0, "sequence_length": 48}
        return Seq2SeqTask(FinetuneConfig.model_validate(values | fields), self.base, self.keys)


@pytest.fixture
def make_bench(
    tmp_path: Path, encoder_decoders: dict[str, Path], publish_model: Callable[..., Artifact]
) -> Callable[..., Bench]:
    def make(name: str, base: str, rows: int = 64) -> Bench:
        return Bench(tmp_path / name, encoder_decoders[base], publish_model, rows)

    return make


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("t5", {"method": "lora", "learning_rate": 2e-2}),
        pytest.param("bart", {"method": "full", "learning_rate": 5e-3}, marks=slow),
        pytest.param("t5", {"method": "full", "learning_rate": 5e-3}, marks=slow),
        pytest.param("t5", {"method": "lora", "learning_rate": 2e-2, "merge": True}, marks=slow),
        pytest.param("t5", {"method": "lora", "dora": True, "learning_rate": 2e-2}, marks=slow),
    ],
)
def test_a_rule_is_learned_and_what_is_written_knows_it(
    make_bench: Callable[..., Bench], base: str, settings: dict[str, Any]
) -> None:
    bench = make_bench("store", base)
    task = bench.task(steps=60, validation_every_steps=60, checkpoint_every_steps=60, **settings)
    details = bench.run(task)["details"]
    found = details["likeness"]
    assert found["answers"] == 12
    assert found["before"]["rougeL"] < 0.3 and found["after"]["rougeL"] > 0.9
    assert details["export_difference"] <= 1e-4
    folder = Path(bench.store.local_path("try"))
    whole = task.config.makes_model
    model, told = AutoModelForSeq2SeqLM.from_pretrained(folder if whole else bench.model, output_loading_info=True)
    assert not any(told.values())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not whole:
        model = PeftModel.from_pretrained(model, folder)
        text = (folder / "adapter_config.json").read_text()
        assert str(bench.model) not in text and str(bench.store.url) not in text
    for shown in details["examples"]:  # each alone, without a batch's padding
        ids = model.generate(**tokenizer(shown["source"], return_tensors="pt"), max_new_tokens=30, do_sample=False)
        assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == shown["after"]
    assert {each["expected"] for each in details["examples"]} == set(ANSWERS.values())


def by_hand(bench: Bench, task: Seq2SeqTask, steps: int) -> dict[str, torch.Tensor]:
    """The same training with nothing of ours but the order of the pairs: transformers' loss, peft, torch."""
    config = task.config
    torch.manual_seed(config.seed)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(bench.model, dtype=torch.float32)
    if config.method == "lora":
        matrices = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        model = get_peft_model(
            model, LoraConfig(r=8, lora_alpha=16, target_modules=sorted(matrices), task_type="SEQ_2_SEQ_LM")
        )
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    end = tokenizer.eos_token if tokenizer("a").input_ids[-1] != tokenizer.eos_token_id else ""
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=config.betas, weight_decay=0.0)
    order = BatchOrder(config.batch_sequences, len(bench.parts["train"]), config.seed)
    model.train()
    for step in range(steps):
        rows = [bench.parts["train"][int(number) % len(bench.parts["train"])] for number in order.visits(step)]
        batch = tokenizer([each.messages[0].content for each in rows], padding=True, return_tensors="pt")
        wanted = tokenizer([each.messages[1].content + end for each in rows], padding=True, return_tensors="pt")
        labels = wanted.input_ids.masked_fill(wanted.attention_mask == 0, -100)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize(("base", "method"), [("t5", "full"), ("bart", "lora")])
def test_steps_are_those_of_transformers_and_peft(make_bench: Callable[..., Bench], base: str, method: str) -> None:
    bench = make_bench("store", base, rows=30)
    task = bench.task(
        method=method, steps=2, schedule="constant", learning_rate=1e-3, batch_sequences=7, answers_scored=0
    )
    seen: dict[str, torch.Tensor] = {}
    finish = task.finish

    def look(model: Any, folder: Path, probe: Any) -> dict[str, Any]:
        seen.update({name: each.detach().clone() for name, each in model.named_parameters() if each.requires_grad})
        return finish(model, folder, probe)

    task.finish = look  # type: ignore[method-assign]
    assert "likeness" not in bench.run(task)["details"]
    expected = by_hand(bench, task, 2)
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("base", "settings"),
    [
        ("t5", {"method": "lora", "dropout": 0.1}),
        pytest.param("t5", {"method": "ia3"}, marks=slow),
        pytest.param("bart", {"method": "full", "l2_sp": 0.1, "layer_decay": 0.8}, marks=slow),
    ],
)
def test_a_run_that_is_broken_off_ends_with_the_same_bytes(
    make_bench: Callable[..., Bench], base: str, settings: dict[str, Any]
) -> None:
    whole, cut = make_bench("whole", base), make_bench("cut", base)
    settings |= {"steps": 4, "answers_scored": 2}
    summary = whole.run(whole.task(**settings))
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.task(**settings), stop_at=4)
    again = cut.run(cut.task(**settings))
    assert again["resumed_at"] == 2
    assert measured(again) == measured(summary)
    names = [item.key for item in whole.store.files("try/") if "resume" not in item.key]
    assert names == [item.key for item in cut.store.files("try/") if "resume" not in item.key]
    for name in names:
        assert whole.store.read(name) == cut.store.read(name)
    assert again["details"] == summary["details"]


def test_a_decoder_is_refused(bases: dict[str, Path], tmp_path: Path, publish_model: Callable[..., Artifact]) -> None:
    bench = Bench(tmp_path / "store", bases["gpt2"], publish_model)
    with pytest.raises(UserError, match="a gpt2 has no encoder and decoder"):
        bench.run(bench.task(steps=2))


@pytest.mark.usefixtures("without_ray")
def test_the_whole_stage_and_its_adapter_merged(
    encoder_decoders: dict[str, Path], store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"source": each.messages[0].content, "target": each.messages[1].content} for each in pairs(40, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = (
        f"{{kind: jsonl, path: {tmp_path / 'rows.jsonl'}, form: pairs, fields: {{prompt: source, completion: target}}}}"
    )
    bart = encoder_decoders["bart"]
    made = run_section(
        f"{{task: seq2seq, model: {bart}, data: {data}, steps: 4, workers: 1, validation_fraction: 0.2, "
        "answers_scored: 3}",
        store,
    )
    artifact = made["finetune"]
    assert artifact.kind == "Seq2SeqAdapter"
    assert {"validation.rouge1", "validation.rougeL_before", "validation.bleu"} <= artifact.metrics.keys()
    assert artifact.metrics["validation.loss"] < artifact.metrics["validation.loss_before"]
    page = store.read(artifact.key("report.html")).decode()
    assert "ROUGE-L" in page and "Held-out sources, before and after" in page
    last = json.loads(store.read(artifact.key("metrics.jsonl")).splitlines()[-1])
    assert last["validation.bleu"] == artifact.metrics["validation.bleu"]
    record = json.dumps([each.model_dump(mode="json", exclude={"provenance"}) for each in made.values()])
    assert str(tmp_path) not in record and str(bart) not in record

    target = tmp_path / "merged"
    assert run_command(["merge", "finetune", str(target), "--store", store.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-4
    _, loading = AutoModelForSeq2SeqLM.from_pretrained(target, output_loading_info=True)
    assert not any(loading.values())
    assert target_marks(target, load_tokenizer(target)) == target_marks(bart, load_tokenizer(bart))


@pytest.mark.usefixtures("without_ray")
def test_a_decoders_answers_are_scored(bases: dict[str, Path], store: LocalStore, tmp_path: Path) -> None:
    rows = [{"prompt": each.messages[0].content, "completion": each.messages[1].content} for each in pairs(40, 3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learned = "method: full, learning_rate: 0.01, steps: 30, batch_sequences: 16, chat_template: plain"
    made = run_section(
        f"{{model: {bases['gpt2']}, data: {tmp_path / 'rows.jsonl'}, workers: 1, {learned}, answers_scored: 4, "
        "validation_fraction: 0.2}",
        store,
    )["finetune"]
    assert made.metrics["validation.rougeL"] > 0.9 > 0.3 > made.metrics["validation.rougeL_before"]
    assert made.details["likeness"]["answers"] == 4
    known = FinetuneConfig.model_validate({"data": "rows.jsonl", "answers_scored": 4})
    assert set(made.metrics) == set(reported(known))  # what a search may be for
    assert "held against what was expected" in store.read(made.key("report.html")).decode()
