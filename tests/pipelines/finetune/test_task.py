"""The task that training runs, the examples that a recipe means, and what a plan shows of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import UserError
from pipelines.cli import run_command
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.load import most_tokens
from pipelines.finetune.task import FinetuneTask, require_isolation
from pipelines.models.export import load_exported

TaskOf = Callable[..., FinetuneTask]


def write(path: Path, count: int = 12, **more: Any) -> Path:
    rows = [{"prompt": f"words {number}?", "completion": f"words {number} words"} for number in range(count)]
    path.write_text("".join(json.dumps(row | more) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({"method": "lora"}, "adapter_model.safetensors"),
        ({"method": "lora", "merge": True}, "model.safetensors"),
        ({"method": "full", "packing": True}, "model.safetensors"),
        ({"method": "p-tuning", "virtual_tokens": 3}, "adapter_model.safetensors"),
    ],
)
def test_what_a_run_ends_with(
    settings: dict[str, Any], written: str, bases: dict[str, Path], task_of: TaskOf, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl")
    config = FinetuneConfig.model_validate(
        {"data": str(path), "forgetting": str(path), "examples_shown": 1, "workers": 1, **settings}
    )
    task = task_of(config, bases["llama"], "plain")
    model = task.model()
    train, validation = task.samples()
    assert len(train) <= 11
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.requires_grad and "norm" not in name:
                each.add_(torch.randn_like(each) * 0.02)
    import numpy as np

    folder = tmp_path / "out"
    details = task.finish(model, folder, validation.batch(np.array([0])))
    assert (folder / written).is_file() and (folder / "tokenizer.json").is_file()
    assert details["export_difference"] <= 1e-4
    assert details["forgetting"]["before"] > 0
    assert details["forgetting"]["before"] != details["forgetting"]["after"]
    (shown,) = details["examples"]
    assert shown["asked"].startswith("words") and shown["expected"].startswith("words")
    if written == "model.safetensors":
        assert load_exported(folder).config.model_type == "llama"


def test_the_recipes_template_goes_with_the_result(bases: dict[str, Path], task_of: TaskOf, tmp_path: Path) -> None:
    import numpy as np

    from pipelines.finetune.load import load_tokenizer

    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    config = FinetuneConfig.model_validate({"data": str(write(tmp_path / "a.jsonl")), "workers": 1})
    task = task_of(config, bases["llama"], template)
    task.finish(task.model(), tmp_path / "out", task.samples()[1].batch(np.array([0])))
    assert load_tokenizer(tmp_path / "out").chat_template == template


def test_a_long_row_is_named_before_training(bases: dict[str, Path], task_of: TaskOf, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"prompt": "words?", "completion": "words"}, {"prompt": "b", "completion": "words " * 80}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FinetuneConfig.model_validate({"data": str(path), "workers": 1})
    with pytest.raises(UserError, match=r"a.jsonl:2: .* tokens, .* are more than the 64 that fit"):
        task_of(config, bases["llama"])
    with pytest.raises(UserError, match=r"no \w+ example fits 64 tokens"):
        task_of(config.model_copy(update={"too_long": "drop"}), bases["llama"])


@pytest.mark.parametrize(
    ("settings", "context", "expected"),
    [
        ({}, 64, 64),
        ({"sequence_length": 32}, 64, 32),
        ({"method": "prompt", "virtual_tokens": 10}, 64, 54),
        ({"sequence_length": 32}, None, 32),
        ({}, None, "the model has no longest sequence of its own"),
        ({"sequence_length": 128}, 64, "128 tokens do not fit the model's context of 64"),
        ({"method": "prompt", "virtual_tokens": 10, "sequence_length": 60}, 64, "of 64 of which 10 are learned"),
        ({"method": "prompt", "virtual_tokens": 64}, 64, "64 virtual tokens leave no room"),
        ({}, 131072, 131072),
        ({"packing": True}, 131072, "finetune.packing: packed rows would have 131,072 tokens"),
        ({"packing": True, "sequence_length": 16384}, 131072, 16384),
        ({"packing": True}, 4096, 4096),
    ],
)
def test_how_long_examples_may_be(settings: dict[str, Any], context: int | None, expected: int | str) -> None:
    config = FinetuneConfig.model_validate(settings)
    if isinstance(expected, int):
        assert most_tokens(config, context) == expected
    else:
        with pytest.raises(UserError, match=expected):
            most_tokens(config, context)


def test_a_model_that_does_not_keep_packed_examples_apart_is_refused() -> None:
    from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    require_isolation(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2)))
    leaking = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(UserError, match=r"finetune.packing: in a bloom model packed examples see each other"):
        require_isolation(leaking)


RECIPE = """
name: tuned
finetune:
  model: {model}
  data: {data}
  method: {method}
"""


def test_a_plan_shows_tokens_and_how_the_result_is_served(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "chats.jsonl", 3)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(model=bases["llama"], data=data, method="lora"))
    arguments = ["plan", str(recipe), "--store", str(tmp_path / "store"), "--examples", "2"]
    assert run_command(arguments) == 0
    shown = capsys.readouterr().out
    assert "finetune makes a LoRA adapter: vLLM serves it beside its base" in shown
    assert "example 2, chats.jsonl:" in shown and "example 3" not in shown
    tokens = [line.split() for line in shown.partition("example 1, ")[2].partition("\n\n")[0].splitlines()[1:]]
    learned = [words[3:] for words in tokens if words[1] == "*"]
    assert learned[-1] == ["'<|end|>'"]
    assert ["0", "0", "'<|bos|>'"] in tokens
    assert f"{len(learned)} carry loss" in shown
    assert not (tmp_path / "store" / "Model").exists()  # nothing was made

    assert run_command([*arguments[:-2], "--set", "finetune.method=prefix", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["finetune-base", "finetune"]
    assert "cannot be served by vLLM: PREFIX_TUNING adapters are learned keys and values" in plan["notes"][0]
    assert run_command([*arguments[:-2], "--set", f"finetune.model={bases['gpt2']}", "--json"]) == 0
    assert (
        "must be merged before vLLM serves it: vLLM puts no adapters beside GPT2LMHeadModel" in capsys.readouterr().out
    )
    assert run_command([*arguments[:-2], "--set", f"finetune.model={tmp_path}", "--json"]) == 2
    assert "holds no config.json" in capsys.readouterr().err


def test_merging_on_the_command_line(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.finetune.export import export_adapter
    from pipelines.finetune.methods import adapt, load_base

    torch.manual_seed(0)
    model = adapt(load_base(bases["llama"]), FinetuneConfig(method="lora"))
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_B" in name:
                each.normal_(0, 0.1)
    probe = torch.randint(0, 300, (2, 9))
    export_adapter(model, bases["llama"], "Model/gone", tmp_path / "adapter", probe)
    command = ["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")]
    assert run_command(command) == 2
    assert "its base model is not here (Model/gone)" in capsys.readouterr().err
    assert run_command([*command, "--base", str(bases["llama"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-4
    with torch.no_grad():
        expected = model.eval()(probe).logits
        assert torch.allclose(load_exported(tmp_path / "merged").eval()(probe).logits, expected, atol=1e-4)
    assert run_command([*command, "--base", str(bases["llama"])]) == 2
    assert "is there already" in capsys.readouterr().err
