"""What training writes is what vLLM serves: the model, its chat template, and an adapter on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.export import export_adapter
from pipelines.finetune.methods import adapt, load_base
from pipelines.models.export import export_model
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.models.stops import stop_ids
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe

pytestmark = pytest.mark.vllm

QUESTION = [{"role": "user", "content": "What does it do?"}]


def greedy(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(ids) :]


SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

model, asked, adapters = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
engine = LLM(
    model=model,
    dtype="float32",
    enforce_eager=True,
    enable_lora=True,
    max_loras=len(adapters),
    max_model_len=64,
    max_num_seqs=2,
    kv_cache_memory_bytes=32 << 20,
    enable_prefix_caching=False,
)
tokenizer = engine.get_tokenizer()
if isinstance(asked, str):
    ids = tokenizer(asked).input_ids
else:
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
settings = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
results = {"ids": ids, "tokens": []}
for request in [None, *(LoRARequest(path, number, path) for number, path in enumerate(adapters, 1))]:
    output = engine.generate({"prompt_token_ids": ids}, settings, lora_request=request, use_tqdm=False)
    results["tokens"].append(list(output[0].outputs[0].token_ids))
results["stops"] = engine.llm_engine.model_config.try_get_generation_config()["eos_token_id"]
print("RESULT " + json.dumps(results), flush=True)
"""
"""In a process of its own: after an engine ran in a process, Ray there keeps the authentication mode it found."""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A model and two adapters on it, of other ranks and matrices, all far from ties between likely tokens."""
    (tmp_path / "tokenizer").mkdir()
    write_folder(learn_bpe(["What does it do? It adds."] * 3, 300, 2), tmp_path / "tokenizer")
    torch.manual_seed(0)
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=96)
    base = build_llama(shape, vocab_size=300, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    probe = torch.randint(0, 300, (1, 16))
    export_model(base, tmp_path / "tokenizer", tmp_path / "model", probe)
    made = [tmp_path / "model"]
    for name, config in (
        ("all", FinetuneConfig(rank=8)),
        ("some", FinetuneConfig(rank=4, rslora=True, target_modules=("q_proj", "down_proj"))),
    ):
        adapted = adapt(load_base(tmp_path / "model"), config)
        with torch.no_grad():
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(0, 0.3)
        export_adapter(adapted, tmp_path / "model", "Model/base", tmp_path / name, probe)
        made.append(tmp_path / name)
    return made


def served(model: Path, adapters: list[Path], asked: object) -> dict[str, list[Any]]:
    """What vLLM answers without and with each adapter, from one engine."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", SCRIPT, str(model), json.dumps(asked), *map(str, adapters)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-3000:]
    found: dict[str, list[Any]] = json.loads(line.removeprefix("RESULT "))
    return found


def assert_same_tokens(model: Path, adapters: list[Path], results: dict[str, list[Any]]) -> None:
    from peft import PeftModel

    models = [load_base(model), *(PeftModel.from_pretrained(load_base(model), each) for each in adapters)]
    assert results["tokens"] == [greedy(each.eval(), results["ids"], 12) for each in models]
    assert len(set(map(tuple, results["tokens"]))) == len(models)


def test_vllm_gives_the_tokens_of_transformers_with_several_adapters_on_one_base(folders: list[Path]) -> None:
    model, *adapters = folders
    results = served(model, adapters, QUESTION)
    assert results["ids"][0] == 0  # bos, once
    assert results["ids"].count(0) == 1
    assert_same_tokens(model, adapters, results)
    assert results["stops"] == stop_ids(model)
    assert len(results["stops"]) == 2


@pytest.mark.slow
@pytest.mark.anchor
@pytest.mark.parametrize("method", ["lora", "rslora"])
def test_an_adapter_trained_on_a_real_model_gives_the_tokens_of_transformers(
    method: str, anchors: Path, tmp_path: Path
) -> None:
    from benchmarks.finetuning_methods import METHODS, measure, write_data

    model = anchors / "models" / "stories260K-hd32"
    new, own = write_data(model, anchors / "corpora" / "tinyshakespeare" / "input.txt", tmp_path)
    assert measure(model, new, own, 20, METHODS[method], tmp_path / "adapter").gained > 0.2
    adapter = tmp_path / "adapter"
    assert_same_tokens(model, [adapter], served(model, [adapter], "Once upon a time"))
