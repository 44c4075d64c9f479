"""What is served stops where its answers end: the base's own marks stay, the chat template's is added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines.models.export import export_model, load_exported
from pipelines.models.llama import build_llama
from pipelines.models.sampling import answer
from pipelines.models.shapes import Shape
from pipelines.models.stops import ends_of, note_stops, stop_ids, stops_of
from pipelines.tokens.folder import set_chat_template, write_folder
from pipelines.tokens.learn import learn_bpe
from pipelines.tokens.special import SPECIAL_TOKENS

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IM_END = 8


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer that knows ChatML's marks, with a template that uses none of them."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    special = (*SPECIAL_TOKENS, "<|im_start|>", "<|im_end|>")
    write_folder(learn_bpe(["some words to learn from"] * 3, 300, 2, special), folder)
    return folder


def test_the_mark_that_a_template_puts_behind_answers_is_a_stop(tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    assert stop_ids(tokenizer) == [1, 6]  # the end of a document, and <|end|>
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    assert ends_of(loaded) == [6]
    assert ends_of(loaded, CHATML) == [loaded.convert_tokens_to_ids("<|im_end|>")] == [IM_END]
    assert ends_of(loaded, "{% for m in messages %}{{ m.content }}\n{% endfor %}") == []
    assert ends_of(loaded, "{{ raise_exception('no') }}") == []
    set_chat_template(tokenizer, CHATML)
    assert stop_ids(tokenizer) == [1, 6, IM_END]


def test_an_export_keeps_the_stops_of_what_was_trained_and_adds_the_templates(tokenizer: Path, tmp_path: Path) -> None:
    shape = Shape(hidden=64, layers=1, heads=2, kv_heads=1, intermediate=96)
    model = build_llama(shape, vocab_size=300, max_positions=32, bos_id=0, eos_id=1, pad_id=2)
    model.generation_config.eos_token_id = [1, 107]  # as of a base whose own chat ended with 107
    probe = torch.randint(0, 300, (1, 8))
    export_model(model, tokenizer, tmp_path / "out", probe)
    assert stops_of(tmp_path / "out") == [1, 6, 107]
    set_chat_template(tmp_path / "out", CHATML)
    note_stops(tmp_path / "out")
    assert stops_of(tmp_path / "out") == [1, 6, 107, IM_END]
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert kept["eos_token_id"] == [1, 6, 107, IM_END] and kept["pad_token_id"] == 2
    assert load_exported(tmp_path / "out").generation_config.eos_token_id == [1, 6, 107, IM_END]


def test_an_answer_ends_with_what_ends_it(tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    torch.manual_seed(4)
    shape = Shape(hidden=64, layers=1, heads=2, kv_heads=1, intermediate=96)
    model = build_llama(shape, vocab_size=300, max_positions=64, bos_id=0, eos_id=1, pad_id=2)
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    with torch.no_grad():
        first = int(model.eval()(loaded("words", return_tensors="pt").input_ids).logits[0, -1].argmax())
    (endless,) = answer(model, tokenizer, ["words"], 12)
    assert answer(model, tokenizer, ["words"], 12, ends=[first]) == [loaded.decode([first])] != [endless]
