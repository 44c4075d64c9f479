"""The special tokens of Raymill's own tokenizers, and the chat template written with them."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.tokens.marks import SENTINEL

BOS = "<|bos|>"
EOS = "<|eos|>"
PAD = "<|pad|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END = "<|end|>"
MASK = "<|mask|>"

SPECIAL_TOKENS = (BOS, EOS, PAD, SYSTEM, USER, ASSISTANT, END)
"""In the order of their ids, from 0. Those asked for besides follow: the mask, one's own, sentinels."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Jinja, as ``tokenizer.apply_chat_template`` of transformers and vLLM render it."""


def special_tokens(*, mask: bool = False, own: Sequence[str] = (), sentinels: int = 0) -> tuple[str, ...]:
    """Every special token in the order of their ids."""
    return (
        *SPECIAL_TOKENS,
        *([MASK] if mask else []),
        *own,
        *(SENTINEL.format(number) for number in range(sentinels)),
    )
