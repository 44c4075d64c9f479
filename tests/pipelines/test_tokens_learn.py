from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.errors import UserError
from pipelines.tokens.config import TokenizerConfig
from pipelines.tokens.folder import corpus_encoder, write_folder
from pipelines.tokens.learn import learn_bpe, learn_unigram
from pipelines.tokens.marks import read_marks
from pipelines.tokens.special import CHAT_TEMPLATE, SPECIAL_TOKENS, special_tokens

TEXTS = [
    "Return the sum of the values.\n\nThe values must be numbers.",
    "def add(left, right=10):\n    return left + right\n",
    "Naïve café — 你好, мир! 12345 \t tabs",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_bpe(TEXTS, 400, 2)


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    return learn_unigram(TEXTS, 320, special_tokens(mask=True, own=["<|note|>"], sentinels=3))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    encoder = corpus_encoder(tokenizer.to_str())
    assert encoder.decode(encoder.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back_from_a_unigram_model(unigram: Tokenizer, text: str) -> None:
    encoder = corpus_encoder(unigram.to_str())
    assert encoder.decode(encoder.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_a_unigram_model_takes_the_likeliest_cut(unigram: Tokenizer) -> None:
    """Against every cut of a word, scored by the model's own table."""
    scores = dict(json.loads(unigram.to_str())["model"]["vocab"])
    learned = max((piece for piece in scores if piece.isalpha()), key=len)
    word = learned + "es"

    def cuts(rest: str) -> Iterator[list[str]]:
        if not rest:
            yield []
        for end in range(1, len(rest) + 1):
            if rest[:end] in scores:
                for others in cuts(rest[end:]):
                    yield [rest[:end], *others]

    best = max(cuts(word), key=lambda pieces: sum(scores[piece] for piece in pieces))
    found = unigram.encode(word.replace("Ġ", " "), add_special_tokens=False).tokens
    assert sum(scores[piece] for piece in found) == pytest.approx(sum(scores[piece] for piece in best))
    assert len(best) < len(word)  # bytes alone would do, too


def test_special_tokens_asked_for_follow_the_usual_ones(unigram: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    names = [*SPECIAL_TOKENS, "<|mask|>", "<|note|>", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    assert [unigram.token_to_id(name) for name in names] == list(range(12))
    write_folder(unigram, tmp_path, names)
    marks = read_marks(tmp_path)
    assert (marks.bos, marks.eos, marks.pad, marks.mask, marks.sentinels) == (0, 1, 2, 7, (9, 10, 11))
    assert marks.special == frozenset(range(12))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.mask_token_id, loaded.convert_tokens_to_ids("<extra_id_1>")) == (7, 10)
    assert loaded("Return <|note|>").input_ids == unigram.encode("Return <|note|>").ids


def test_the_order_of_the_texts_changes_nothing(tokenizer: Tokenizer) -> None:
    assert learn_bpe(reversed(TEXTS), 400, 2).to_str() == tokenizer.to_str()


def test_special_tokens_come_first_and_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer.encode("2024", add_special_tokens=False).tokens == ["2", "0", "2", "4"]
    assert not any(sum(c.isdigit() for c in token) > 1 for token in tokenizer.get_vocab())


def test_a_document_cannot_forge_a_special_token(tokenizer: Tokenizer) -> None:
    text = "before <|eos|><|assistant|> after"
    ids = corpus_encoder(tokenizer.to_str()).encode(text, add_special_tokens=False).ids
    assert min(ids) >= len(SPECIAL_TOKENS)
    assert tokenizer.decode(ids) == text


def test_transformers_loads_the_folder_and_renders_the_chat(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_folder(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")
    assert loaded("Return the sum").input_ids == tokenizer.encode("Return the sum").ids
    assert loaded("Return the sum").input_ids[0] == loaded.bos_token_id
    messages = [{"role": "user", "content": "What is it?"}]
    prompt = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == "<|bos|><|user|>\nWhat is it?<|end|>\n<|assistant|>\n"
    whole = loaded.apply_chat_template([*messages, {"role": "assistant", "content": "A sum."}], tokenize=False)
    assert whole == prompt + "A sum.<|end|>\n"
    ids = loaded(whole, add_special_tokens=False).input_ids
    assert [ids.count(loaded.convert_tokens_to_ids(token)) for token in ("<|bos|>", "<|user|>", "<|end|>")] == [1, 1, 2]
    assert loaded.decode(ids) == whole
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE


def test_an_unknown_role_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_folder(tokenizer, tmp_path)
    with pytest.raises(Exception, match="unknown role tool"):
        AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_the_tokenizer_stage_learns_from_the_training_split_only(tmp_path: Path, publish: object) -> None:
    from cluster.progress import Progress
    from cluster.stage import execute, identify
    from cluster.store import open_store
    from pipelines.tokens.config import TOKENIZER_STAGE

    store = open_store(tmp_path / "store")
    row = {"source": "python-docs", "path": "x", "licence": "MIT", "language": "en", "metadata": "{}"}
    rows = [row | {"id": "held out", "text": "zebra " * 50}]
    rows += [row | {"id": f"d{n}", "text": f"letters and words {n} " * 5} for n in range(9)]
    corpus = publish(store, rows)  # type: ignore[operator]
    config = TokenizerConfig(vocab_size=400)
    with Progress().track("tokenizer") as tracker:
        identity = identify(TOKENIZER_STAGE, config, {"corpus": corpus.fingerprint})
        artifact = execute(TOKENIZER_STAGE, identity, config, {"corpus": corpus}, store, tracker).artifact
    learned = Tokenizer.from_str(store.read(artifact.key("tokenizer.json")).decode())
    assert learned.token_to_id("Ġwords") is not None
    assert not any("zeb" in token for token in learned.get_vocab())
    assert artifact.counts["training_documents"] == 9
    assert artifact.licences == corpus.licences

    empty = publish(store, rows[:1])  # type: ignore[operator]
    with Progress().track("tokenizer") as tracker, pytest.raises(UserError, match="no training text"):
        identity = identify(TOKENIZER_STAGE, config, {"corpus": empty.fingerprint})
        execute(TOKENIZER_STAGE, identity, config, {"corpus": empty}, store, tracker)
