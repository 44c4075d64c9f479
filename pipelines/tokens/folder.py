"""A tokenizer as a Hugging Face folder, and as the encoder of documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from pipelines.tokens.special import BOS, CHAT_TEMPLATE, EOS, MASK, PAD, SPECIAL_TOKENS

CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
FILES = ("tokenizer.json", CONFIG, TEMPLATE, "special_tokens_map.json")
"""What a folder may hold; the first two always."""


def write_folder(
    tokenizer: Tokenizer,
    folder: Path,
    special: Sequence[str] = SPECIAL_TOKENS,
    chat_template: str = CHAT_TEMPLATE,
) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` (with the chat template) for transformers and vLLM.

    The files are written directly, in transformers' own format: its writer would import torch.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    if MASK in special:
        named["mask_token"] = MASK
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": [token for token in special if token not in named.values()],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "chat_template": chat_template,
    }
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def set_chat_template(folder: Path, template: str) -> None:
    """Replace the chat template of a tokenizer's folder."""
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    (folder / TEMPLATE).unlink(missing_ok=True)


def corpus_encoder(tokenizer_json: str) -> Tokenizer:
    """The tokenizer as it must read documents: a special token's name in a text is ordinary text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
