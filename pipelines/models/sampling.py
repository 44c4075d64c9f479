"""Let a model write, for reports: what it says tells more than its loss."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from pipelines.models.export import longest
from pipelines.models.stops import stop_ids, united

PROMPTS = ("", "Return the ", "# ")
TEMPERATURE = 0.8
LIKELIEST = 50


def continue_texts(
    model: Any, tokenizer_folder: Path, *, seed: int, prompts: Sequence[str] = PROMPTS, tokens: int = 60
) -> list[dict[str, str]]:
    """A sampled continuation of each prompt (temperature 0.8 among the 50 likeliest tokens)."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    torch.manual_seed(seed)
    settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": LIKELIEST}
    stops = stop_ids(tokenizer_folder)
    return [
        {"prompt": prompt, "text": _generate(model, tokenizer, stops, prompt, True, tokens, settings)}
        for prompt in prompts
    ]


def answer(
    model: Any,
    tokenizer_folder: Path,
    prompts: Sequence[str],
    tokens: int = 60,
    *,
    begin: bool = False,
    ends: Sequence[int] = (),
) -> list[str]:
    """The greedy answers to prompts that are already rendered with the chat template.

    Args:
        begin: put the tokenizer's beginning of a text before each, which a template writes itself.
        ends: tokens that end an answer, besides those that the folder names.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    settings = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    stops = united(stop_ids(tokenizer_folder), ends)
    return [_generate(model, tokenizer, stops, prompt, begin, tokens, settings) for prompt in prompts]


def fill_texts(
    model: Any, tokenizer_folder: Path, inputs: torch.Tensor, labels: torch.Tensor, further: Mapping[str, torch.Tensor]
) -> list[dict[str, str]]:
    """What a model that fills gaps makes of some sequences: what it read, what was hidden, its likeliest guesses.

    Args:
        labels: the hidden token at each position of the logits, negative where none is.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        guesses = model(input_ids=inputs, **further).logits.argmax(-1)
    model.train(was_training)
    return [
        {
            "prompt": tokenizer.decode(read),
            "hidden": tokenizer.decode(wanted[wanted >= 0]),
            "text": tokenizer.decode(guessed[wanted >= 0]),
        }
        for read, wanted, guessed in zip(inputs, labels, guesses, strict=True)
    ]


def _generate(
    model: Any, tokenizer: Any, stops: list[int], prompt: str, add_bos: bool, tokens: int, settings: dict[str, Any]
) -> str:
    device = next(model.parameters()).device
    ids = tokenizer(prompt, add_special_tokens=add_bos, return_tensors="pt").input_ids.long().to(device)
    if not ids.shape[1]:  # a tokenizer that puts nothing before a text: what ends the one before it begins it
        ids = torch.tensor([stops[:1]], device=device)
    tokens = min(tokens, _room(model, ids.shape[1]))
    if tokens < 1:
        return ""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        if hasattr(model, "own_record"):
            written = _write_plainly(model, ids, tokens, stops)
        else:
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                eos_token_id=stops,
                pad_token_id=stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
                **settings,
            )
    model.train(was_training)
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def _room(model: Any, asked: int) -> int:
    """Positions that are left in the model's context; learned positions end where it ends."""
    if hasattr(model, "own_record"):
        return sys.maxsize  # it is read in windows
    context = longest(model.config)
    learned = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    return sys.maxsize if context is None else context - asked - learned


def _write_plainly(model: Any, ids: torch.Tensor, tokens: int, stops: list[int]) -> torch.Tensor:
    """Sample from a model that has no ``generate`` of its own."""
    for _ in range(tokens):
        logits = model(input_ids=ids[:, -model.own_positions :]).logits[:, -1]
        best, places = logits.topk(min(LIKELIEST, logits.shape[-1]))
        drawn = torch.multinomial(torch.softmax(best / TEMPERATURE, -1), 1)
        ids = torch.cat([ids, places.gather(1, drawn)], dim=1)
        if int(ids[0, -1]) in stops:
            break
    return ids
