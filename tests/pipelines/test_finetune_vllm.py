"""What training writes is what vLLM serves: the model, its chat template, and an adapter on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.lora import add_adapters, export_adapter, load_base
from pipelines.models.config import Shape
from pipelines.models.export import export_model
from pipelines.models.llama import build_llama
from pipelines.tokens.bpe import learn_bpe, write_folder

pytestmark = pytest.mark.vllm

QUESTION = [{"role": "user", "content": "What does it do?"}]


def greedy(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(ids) :]


def test_vllm_gives_the_tokens_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "tokenizer").mkdir()
    write_folder(learn_bpe(["What does it do? It adds."] * 3, 300, 2), tmp_path / "tokenizer")
    torch.manual_seed(0)
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=96)
    base = build_llama(shape, vocab_size=300, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # far from ties between likely tokens
    probe = torch.randint(0, 300, (1, 16))
    export_model(base, tmp_path / "tokenizer", tmp_path / "model", probe)
    adapted = add_adapters(load_base(tmp_path / "model"), FinetuneConfig(rank=8))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    export_adapter(adapted, tmp_path / "model", "Model/base", tmp_path / "adapter", probe)

    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(
        model=str(tmp_path / "model"),
        dtype="float32",
        enforce_eager=True,
        enable_lora=True,
        max_model_len=64,
        max_num_seqs=2,
        kv_cache_memory_bytes=32 << 20,
        enable_prefix_caching=False,
    )
    ids = engine.get_tokenizer().apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert ids[0] == 0
    settings = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    results = {}
    for name, request in (("base", None), ("tuned", LoRARequest("tuned", 1, str(tmp_path / "adapter")))):
        output = engine.generate({"prompt_token_ids": ids}, settings, lora_request=request, use_tqdm=False)
        results[name] = list(output[0].outputs[0].token_ids)
    assert results["base"] == greedy(load_base(tmp_path / "model").eval(), ids, 12)
    assert results["tuned"] == greedy(adapted.eval(), ids, 12)
    assert results["base"] != results["tuned"]
    # The end of an answer stops generation without being asked for.
    defaults = engine.get_default_sampling_params()
    tokenizer = engine.get_tokenizer()
    assert tokenizer.convert_tokens_to_ids("<|end|>") in (defaults.stop_token_ids or []) or (
        tokenizer.convert_tokens_to_ids("<|end|>")
        in engine.llm_engine.model_config.try_get_generation_config()["eos_token_id"]
    )
