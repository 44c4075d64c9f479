"""A recipe whose sections do not go together is refused when it is read."""

from __future__ import annotations

import pytest

from cluster.config import parse_document
from cluster.errors import UserError
from pipelines.recipe import Recipe, validate_recipe

BERT = "pretrain: {architecture: bert}\ntokenizer: {mask_token: true}\n"
T5 = "pretrain: {architecture: t5}\ntokenizer: {sentinels: 26}\n"
OWN = "pretrain: {architecture: 'pipelines.models.recurrent:LSTMModel'}\n"
SERVED = "serving: {variants: [{name: base, model: '@pretrain', weight: 1}]}\n"


def recipe(text: str) -> Recipe:
    return validate_recipe(parse_document(text, "recipe.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrain: {architecture: bert}", "Set tokenizer.mask_token: true"),
        ("pretrain: {architecture: t5}", "t5 needs 26 sentinels for blocks of 512 tokens. Set tokenizer.sentinels: 26"),
        (T5 + "tokens: {sequence_length: 1024}", "needs 51 sentinels"),
        (BERT + "evals:", "bert predicts no next token"),
        (T5 + "evals:", "t5 predicts no next token"),
        (BERT + "finetune:", "that transformers loads, not bert"),
        (OWN + "finetune:", "Leave finetune out, train llama or gpt2"),
        (OWN + SERVED, "vLLM serves no pipelines.models.recurrent:LSTMModel .variant base"),
    ],
)
def test_what_does_not_go_together(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe(text)


@pytest.mark.parametrize(
    "text",
    [
        BERT,
        T5,
        OWN,
        OWN + "evals:",
        "pretrain: {architecture: gpt2}\nevals:\n" + SERVED,
        "pretrain: {architecture: llama}\nfinetune:\nevals:\n" + SERVED,
        "pretrain: {architecture: bert}\ntokenizer: {source: /some/tokenizer}",
        "pretrain: {architecture: gpt2}\nfinetune:\n",
        "finetune: {model: /models/llama, data: chats.jsonl}",
    ],
)
def test_what_goes_together(text: str) -> None:
    assert recipe(text).written
