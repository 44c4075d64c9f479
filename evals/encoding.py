"""Context and continuation as tokens: what ``TemplateLM._encode_pair`` gives, for many requests at a time.

The stock harness encodes a context anew for each of its continuations, one text at a time. Here each different text is
encoded once, and a fast tokenizer gets them in blocks and uses all cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

BLOCK_TEXTS = 2_048

Pair = tuple[list[int], list[int]]
"""Tokens of the context, and of the continuation."""


class Encoder(Protocol):
    """The part of a model that :func:`encode_pairs` needs."""

    tokenizer: Any

    @property
    def prefix_token_id(self) -> int: ...

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]: ...

    def begins_special(self, text: str) -> bool: ...


def encode_pairs(model: Encoder, requests: Sequence[tuple[str, str]]) -> list[Pair]:
    """Tokens of each (context, continuation).

    A context's trailing blanks go to its continuation; a continuation's tokens are those of the whole text after as
    many as the context has alone. Without a context the beginning-of-text token stands in for it.
    """
    pairs: list[Pair] = []
    with _all_cores():
        for start in range(0, len(requests), BLOCK_TEXTS):
            block = requests[start : start + BLOCK_TEXTS]
            moved = [_move_blanks(*request) for request in block]
            texts = {
                text: None for context, continuation in moved if context for text in (context, context + continuation)
            }
            encoded = dict(zip(texts, encode_texts(model, list(texts)), strict=True))
            for (context, continuation), (full, _) in zip(moved, block, strict=True):
                if full == "":
                    pairs.append(_without_context(model, continuation))
                elif context == "":  # nothing but blanks
                    whole, before = model.tok_encode(continuation), model.tok_encode("")
                    pairs.append((before, whole[len(before) :]))
                else:
                    before = encoded[context]
                    pairs.append((before, encoded[context + continuation][len(before) :]))
    return pairs


def encode_texts(model: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, as ``tok_encode`` gives them one by one."""
    if not getattr(model.tokenizer, "is_fast", False):
        return [model.tok_encode(text) for text in texts]
    plain = [text for text in texts if not model.begins_special(text)]
    encoded = iter(_encode_block(model.tokenizer, plain))
    return [model.tok_encode(text) if model.begins_special(text) else next(encoded) for text in texts]


def _encode_block(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False, verbose=False)[
        "input_ids"
    ]
    return ids


def _move_blanks(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _without_context(model: Encoder, continuation: str) -> Pair:
    tokens = model.tok_encode(continuation, add_special_tokens=False)
    if model.prefix_token_id == tokens[0]:
        return tokens[:1], tokens[1:]
    return [model.prefix_token_id], tokens


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the tokenizers library use threads; this process forks nothing while it does."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
