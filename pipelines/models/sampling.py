"""Let a model write, for reports: what it says tells more than its loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from pipelines.models.export import stop_ids

PROMPTS = ("", "Return the ", "# ")


def continue_texts(
    model: Any, tokenizer_folder: Path, *, seed: int, prompts: Sequence[str] = PROMPTS, tokens: int = 60
) -> list[dict[str, str]]:
    """A sampled continuation of each prompt (temperature 0.8 among the 50 likeliest tokens)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    torch.manual_seed(seed)
    settings = {"do_sample": True, "temperature": 0.8, "top_k": 50}
    return [
        {"prompt": prompt, "text": _generate(model, tokenizer, tokenizer_folder, prompt, True, tokens, settings)}
        for prompt in prompts
    ]


def answer(model: Any, tokenizer_folder: Path, prompts: Sequence[str], tokens: int = 60) -> list[str]:
    """The greedy answers to prompts that are already rendered with the chat template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    settings = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    return [_generate(model, tokenizer, tokenizer_folder, prompt, False, tokens, settings) for prompt in prompts]


def _generate(
    model: Any, tokenizer: Any, folder: Path, prompt: str, add_bos: bool, tokens: int, settings: dict[str, Any]
) -> str:
    was_training = model.training
    model.eval()
    ids = tokenizer(prompt, add_special_tokens=add_bos, return_tensors="pt").input_ids.to(model.device)
    with torch.no_grad():
        written = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            eos_token_id=stop_ids(folder),
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
    model.train(was_training)
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
