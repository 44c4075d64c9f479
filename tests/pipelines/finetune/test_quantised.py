"""A base in 4 bits: what is refused and where, and, where bitsandbytes is installed, what is trained on it.

bitsandbytes packs and multiplies on CPUs as well, so most of it can be run without a GPU, where it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cluster.artifact import Artifact
from cluster.config import parse_document, validate
from cluster.errors import UserError
from pipelines.cli import run_command
from pipelines.finetune import quantised
from pipelines.finetune.config import FinetuneConfig
from pipelines.train.anatomy import numbers
from tests.pipelines.finetune.generation_bench import GenerationBench
from tests.pipelines.four_bits import computes_in_bf16, installed
from tests.pipelines.one_process import measured

FOUR = {"base_bits": 4, "gpus_per_worker": 1, "precision": "fp32", "learning_rate": 1e-2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{base_bits: 4}", r"base_bits: 4 \(QLoRA\) needs NVIDIA GPUs .* gpus_per_worker is 0: set gpus_per_worker: 1"),
        ("{base_bits: 8}", "base_bits"),
        ("{method: full, base_bits: 4, gpus_per_worker: 1}", "base_bits is for method lora, not for full"),
        ("{base_bits: 4, gpus_per_worker: 1, parallel: {shard: 2}}", "blocks with common scales, .* parallel.data"),
        ("{base_bits: 4, gpus_per_worker: 1, workers: 2, parallel: {tensor: 2}}", "train with parallel.data"),
        ("{base_bits: 4, gpus_per_worker: 1, merge: true}", "never trained as it is, .* `raymill merge`"),
        ("{base_bits: 4, gpus_per_worker: 1, precision: fp8}", "use bf16"),
        ("{base_bits: 4, gpus_per_worker: 1, compile: true}", "leave one of them out"),
        (
            "{base_bits: 4, gpus_per_worker: 1, task: classification, data: a.jsonl}",
            "is for task generation, not for classification",
        ),
    ],
)
def test_what_does_not_go_with_it_is_said_when_the_recipe_is_read(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(FinetuneConfig, parse_document(text, "recipe.yaml"))


def fake_library(monkeypatch: pytest.MonkeyPatch, version: str, quantize: Callable[..., Any] | None) -> None:
    """A bitsandbytes of some version, whose packing does this."""
    library, functional = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    if quantize is not None:
        functional.quantize_4bit = quantize  # type: ignore[attr-defined]
        functional.dequantize_4bit = lambda packed, state: packed  # type: ignore[attr-defined]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name == "bitsandbytes" else found(name))
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)


def broken(*arguments: Any, **more: Any) -> Any:
    raise RuntimeError("no kernel for this device\nand a long story")


@pytest.mark.parametrize(
    ("version", "quantize", "told"),
    [
        ("0.45.0", None, "bitsandbytes 0.45.0 is older than 0.46.1"),
        ("0.50.2", None, "bitsandbytes 0.50.2 does not work on cpu: cannot import name"),
        ("0.50.2", broken, "bitsandbytes 0.50.2 does not work on cpu: no kernel for this device\n"),
        ("0.50.2", lambda matrix, **more: (matrix * 2, None), "packs numbers wrongly on cpu"),
        ("0.51.0.dev3", lambda matrix, **more: (matrix, None), None),
    ],
)
def test_a_library_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch, version: str, quantize: Callable[..., Any] | None, told: str | None
) -> None:
    monkeypatch.setattr(quantised, "base_device", lambda: torch.device("cpu"))
    fake_library(monkeypatch, version, quantize)
    if told is None:
        quantised.require_here()
        return
    with pytest.raises(UserError, match=told) as raised:
        quantised.require_here()
    assert raised.value.where == "finetune.base_bits"


def test_a_worker_without_the_library_refuses_before_it_reads_anything(
    monkeypatch: pytest.MonkeyPatch, bases: dict[str, Path], tmp_path: Path, publish_model: Callable[..., Artifact]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bench = GenerationBench(tmp_path / "store", bases["llama"], publish_model)
    bench.store.delete_all("rows")
    message = r"(?s)cannot keep the base in 4 bits: bitsandbytes is not installed.*raymill\[qlora\]"
    with pytest.raises(UserError, match=message):
        bench.run(bench.task(steps=2, **FOUR))


def test_numbers_are_counted_and_not_bytes() -> None:
    packed = torch.nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)
    assert numbers(packed) == 24
    packed.quant_state = type("State", (), {"shape": torch.Size((6, 8))})()  # type: ignore[attr-defined]
    assert numbers(packed) == 48


def test_a_plan_says_what_the_adapter_is_served_on(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "chats.jsonl"
    data.write_text('{"prompt": "a?", "completion": "b"}\n' * 2)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: four\nfinetune: {{model: {bases['llama']}, data: {data}, base_bits: 4, gpus_per_worker: 1}}\n"
    )
    assert run_command(["plan", str(recipe), "--store", str(tmp_path / "store")]) == 0
    assert "beside its base, which is then not in the 4 bits that it was trained on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("whole", "told"), [(1.25, "loss 1.5000 as trained, 1.2500 on the base as it is"), (None, "not measured on")]
)
def test_merging_says_what_the_4_bits_cost(
    whole: float | None,
    told: str,
    bases: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipelines.finetune.export import export_adapter
    from pipelines.finetune.methods import adapt, load_base

    adapter = tmp_path / "adapter"
    model = adapt(load_base(bases["llama"]), FinetuneConfig(method="lora"))
    export_adapter(model, bases["llama"], "Model/gone", adapter, torch.randint(0, 300, (2, 9)))
    assert quantised.merged_note(adapter) is None
    quantised.record(adapter, {"loss": 1.5, "loss_on_whole_base": whole})
    command = ["merge", str(adapter), str(tmp_path / "merged"), "--base", str(bases["llama"])]
    assert run_command(command) == 0
    out = capsys.readouterr().out
    assert "trained on the base in 4 bits, and is merged into the base as it is" in out and told in out


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_asks_a_worker_before_any_stage(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Ray that is told of a GPU that is not there: what is on the worker decides, and nothing is made."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"a{n}?", "completion": "b"}) + "\n" for n in range(8)))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"name: four\nfinetune: {{model: {bases['llama']}, data: {data}, base_bits: 4, gpus_per_worker: 1, workers: 1}}"
    )
    arguments = ["run", str(recipe), "--store", str(tmp_path / "store")]
    assert run_command(arguments) == 2
    assert "1 workers need 1 GPUs, the cluster has 0" in capsys.readouterr().err
    import ray

    start = ray.init
    monkeypatch.setattr(ray, "init", lambda *given, **settings: start(*given, **settings | {"num_gpus": 1}))
    assert run_command(arguments) == 2
    said = capsys.readouterr().err
    assert "finetune.base_bits: a worker cannot keep the base in 4 bits: its PyTorch has no NVIDIA GPU" in said
    assert not (tmp_path / "store" / "Model").exists()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the base is packed and multiplied."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.param == "cpu" and computes_in_bf16():
        pytest.skip("on this CPU bitsandbytes computes in bf16")
    where = torch.device(request.param, *([torch.cuda.current_device()] if request.param == "cuda" else []))
    monkeypatch.setattr(quantised, "base_device", lambda: where)
    return str(request.param)


@pytest.fixture
def make_bench(tmp_path: Path, publish_model: Callable[..., Artifact]) -> Callable[[str, Path], GenerationBench]:
    return lambda name, model: GenerationBench(tmp_path / name, model, publish_model)


@installed
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_packed_and_what_stays_whole(name: str, bases: dict[str, Path], device: str) -> None:
    from pipelines.finetune.methods import adapt, load_base, matrices

    assert quantised.problem() is None
    original = load_base(bases[name])
    model = quantised.load_quantised(bases[name], "fp32")
    packed = {key: each for key, each in model.named_parameters() if each.dtype == torch.uint8}
    assert {key.split(".")[-2] for key in packed} == set(matrices(original))
    assert all(each.dtype == torch.float32 for key, each in model.named_parameters() if key not in packed)
    assert sum(map(numbers, model.parameters())) == sum(map(numbers, original.parameters()))
    assert not any(each.requires_grad for each in model.parameters())
    inputs = torch.randint(0, 300, (2, 9), device=device)
    with torch.no_grad():
        difference = (model.eval()(inputs).logits - original.to(device).eval()(inputs).logits).abs().max()
    assert 1e-6 < float(difference) < 1.0
    adapted = adapt(model, FinetuneConfig(method="lora"))
    trained = [key for key, each in adapted.named_parameters() if each.requires_grad]
    assert trained and all("lora_" in key for key in trained)


def unpacked(folder: Path, base: Path) -> Path:
    """A model whose matrices have the values that 4 bits leave them, each written in full."""
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    values = dict(quantised.load_quantised(base, "fp32").named_parameters())
    with torch.no_grad():
        for key, each in whole.named_parameters():
            if hasattr(values[key], "quant_state"):
                each.copy_(dequantize_4bit(values[key].data, values[key].quant_state))
    whole.save_pretrained(folder)
    for path in base.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@installed
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"packing": True, "recompute": "full"}])
def test_training_is_that_of_lora_on_the_values_that_4_bits_leave(
    settings: dict[str, Any], bases: dict[str, Path], tmp_path: Path, make_bench: Any, device: str
) -> None:
    four, same = make_bench("four", bases["llama"]), make_bench("same", unpacked(tmp_path / "base", bases["llama"]))
    summary = four.run(four.task(steps=6, **FOUR, **settings), device=device)
    expected = same.run(same.task(steps=6, precision="fp32", learning_rate=1e-2, **settings), device=device)
    for kind in ("train", "validation"):
        found, wanted = (
            [each["loss"] for each in made["records"] if each["kind"] == kind] for made in (summary, expected)
        )
        assert found == pytest.approx(wanted, abs=1e-5) and len(found) >= 6
        assert found[-1] < found[0] - 0.1
    assert summary["parameters"] == expected["parameters"]
    assert summary["trained_parameters"] == expected["trained_parameters"]


@installed
def test_an_adapter_for_the_base_as_it_is(bases: dict[str, Path], tmp_path: Path, make_bench: Any, device: str) -> None:
    from pipelines.finetune.export import merge_folders
    from pipelines.finetune.methods import load_adapter, load_base
    from pipelines.models.export import load_exported

    bench = make_bench("whole", bases["gpt2"])
    summary = bench.run(bench.task(steps=6, **FOUR), device=device)
    assert summary["details"]["export_difference"] <= 1e-4
    measured_loss = summary["details"]["quantised"]
    assert measured_loss["loss"] == pytest.approx(summary["validation_loss"], abs=1e-4)
    assert measured_loss["loss_on_whole_base"] != measured_loss["loss"]
    assert measured_loss["loss_on_whole_base"] == pytest.approx(measured_loss["loss"], abs=0.3)
    folder = Path(bench.store.local_path("try"))
    text = "".join((folder / name).read_text() for name in ("adapter_config.json", quantised.RECORD))
    assert str(tmp_path) not in text and str(bases["gpt2"]) not in text
    assert merge_folders(folder, bases["gpt2"], tmp_path / "merged") <= 1e-4
    inputs = torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        expected = load_adapter(load_base(bases["gpt2"]), folder).eval()(inputs).logits
        torch.testing.assert_close(
            load_exported(tmp_path / "merged").eval()(inputs).logits, expected, atol=1e-4, rtol=0
        )


@installed
def test_a_run_that_is_broken_off_ends_with_the_same_bytes(
    bases: dict[str, Path], make_bench: Any, device: str
) -> None:
    whole, cut = make_bench("whole", bases["llama"]), make_bench("cut", bases["llama"])
    summary = whole.run(whole.task(steps=6, **FOUR), device=device)
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.task(steps=6, **FOUR), stop_at=6, device=device)
    again = cut.run(cut.task(steps=6, **FOUR), device=device)
    assert again["resumed_at"] == 4
    assert measured(again) == measured(summary)
    assert cut.written() == whole.written() != {}
    assert again["details"] == summary["details"]
