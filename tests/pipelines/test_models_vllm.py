"""Decoders as they are exported run unmodified in vLLM and in lm-eval, with a padded vocabulary and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.models.build import build_model
from pipelines.models.config import ModelConfig
from pipelines.models.export import export_model, load_exported
from pipelines.tokens.folder import write_folder
from pipelines.tokens.learn import learn_bpe

TEXT = "What does it do? It adds."

SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams

model, ids = sys.argv[1], json.loads(sys.argv[2])
engine = LLM(
    model=model,
    dtype="float32",
    enforce_eager=True,
    max_model_len=64,
    max_num_seqs=2,
    kv_cache_memory_bytes=32 << 20,
    enable_prefix_caching=False,
)
settings = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
output = engine.generate({"prompt_token_ids": ids}, settings, use_tqdm=False)
print("RESULT " + json.dumps([list(output[0].outputs[0].token_ids), output[0].outputs[0].text]), flush=True)
"""


def exported(folder: Path, architecture: str) -> Path:
    """A model whose likeliest tokens are far apart."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    write_folder(learn_bpe([TEXT] * 3, 300, 2), tokenizer)
    torch.manual_seed(0)
    config = ModelConfig(architecture=architecture, hidden=64, layers=2, heads=2, kv_heads=None, intermediate=96)
    if architecture == "llama":
        config = config.model_copy(update={"kv_heads": 1})
    model = build_model(config, vocab_size=270, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    export_model(model, tokenizer, folder / "model", torch.randint(0, 270, (1, 16)))
    return folder / "model"


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    with torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(ids) :]


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_vllm_gives_the_tokens_of_transformers(tmp_path: Path, architecture: str) -> None:
    folder = exported(tmp_path, architecture)
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
    }
    ids = [0, 60, 70, 80, 90]
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(ids)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    assert line is not None, done.stdout[-2000:] + done.stderr[-3000:]
    tokens, _ = json.loads(line.removeprefix("RESULT "))
    assert tokens == greedy(load_exported(folder).eval(), ids, 12)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_lm_eval_scores_it_as_it_is(tmp_path: Path, architecture: str) -> None:
    """lm-eval's own hf backend loads the folder; its log-likelihood is the sum over the exported model's logits."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    folder = exported(tmp_path, architecture)
    harness = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1)
    request = Instance("loglikelihood", {}, ("What does", " it do?"), 0, ("task", 0, 1))
    [(likelihood, _)] = harness.loglikelihood([request], disable_tqdm=True)
    whole = harness.tokenizer("What does it do?").input_ids
    start = len(harness.tokenizer("What does").input_ids)
    with torch.no_grad():
        rows = load_exported(folder).eval()(torch.tensor([whole])).logits[0].log_softmax(-1)
    expected = sum(float(rows[place - 1, whole[place]]) for place in range(start, len(whole)))
    assert likelihood == pytest.approx(expected, abs=1e-4)
