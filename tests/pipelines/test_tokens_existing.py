"""Existing tokenizers of the common kinds: what comes out loads in transformers and keeps every number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cluster.errors import UserError
from cluster.store import open_store
from pipelines.tokens.config import TOKENIZER_STAGE, TokenizerConfig, resolve_tokenizer
from pipelines.tokens.existing import source_identity, take_tokenizer
from pipelines.tokens.marks import Marks, read_marks, vocabulary_size

TEXTS = ["the cat sat on the mat and looked at the other cat", "where a word follows a word"] * 4


def gpt2_like(folder: Path) -> None:
    """One mark for everything, as GPT-2 has; written by transformers."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    )
    tokenizer.enable_truncation(4)
    mark = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=mark, eos_token=mark).save_pretrained(folder)


def bert_like(folder: Path) -> None:
    """Word pieces, lower-case, with [CLS] … [SEP]: only a word list, as old BERTs come."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "##s", "a"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), encoding="utf-8")


def t5_like(folder: Path) -> None:
    """A unigram model with </s>, <pad> and sentinels, without a mark that begins a text."""
    marks, sentinels = ["<pad>", "</s>", "<unk>"], [f"<extra_id_{number}>" for number in range(5)]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=60, special_tokens=[*marks, *sentinels], unk_token="<unk>"),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    names = {"eos_token": dict(flags, content="</s>"), "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")


def take(tmp_path: Path, make: Any, **options: Any) -> tuple[Path, Path, Marks]:
    source, folder = tmp_path / "source", tmp_path / "taken"
    source.mkdir()
    folder.mkdir()
    make(source)
    take_tokenizer(str(source), open_store(tmp_path / "store"), folder, **options)
    return source, folder, read_marks(folder)


@pytest.mark.parametrize("make", [gpt2_like, bert_like, t5_like])
def test_every_number_is_kept_and_transformers_loads_the_folder(tmp_path: Path, make: Any) -> None:
    from transformers import AutoTokenizer

    source, folder, marks = take(tmp_path, make, mask="<|mask|>", special=["<|note|>"])
    old, new = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(folder)
    text = "the cats sat on a mat"
    assert new(text, add_special_tokens=False).input_ids == old(text, add_special_tokens=False).input_ids
    assert new(text).input_ids == old(text).input_ids
    assert new.eos_token == old.eos_token
    added = new.convert_tokens_to_ids("<|note|>")
    assert added >= len(old)
    assert added in marks.special
    assert new(f"{text}<|note|>", add_special_tokens=False).input_ids[-1] == added
    mask = old.convert_tokens_to_ids(old.mask_token) if old.mask_token else new.convert_tokens_to_ids("<|mask|>")
    assert marks.mask == mask
    assert sorted(path.name for path in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).truncation is None


def test_an_artifacts_tokenizer_is_taken_by_its_id(tmp_path: Path) -> None:
    from cluster.artifact import Artifact, Identity
    from cluster.attempt import Attempt

    store = open_store(tmp_path / "store")
    identity = Identity("Model", "pretrain", 1, {}, {})
    with Attempt(store, identity.id) as attempt:
        t5_like(attempt.path("tokenizer.json").parent)
        attempt.path("model.safetensors").write_bytes(b"weights")
        record = Artifact(
            kind="Model",
            name="pretrain",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
        )
        artifact = attempt.publish(record)
    folder = tmp_path / "taken"
    folder.mkdir()
    take_tokenizer(artifact.id, store, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert read_marks(folder).eos == 1


def test_the_marks_of_each_kind(tmp_path: Path) -> None:
    found = {}
    for make in (gpt2_like, bert_like, t5_like):
        place = tmp_path / make.__name__
        place.mkdir()
        found[make] = take(place, make)[2]
    gpt2, bert, t5 = found[gpt2_like], found[bert_like], found[t5_like]
    assert (gpt2.bos, gpt2.eos, gpt2.pad, gpt2.mask, gpt2.around) == (0, 0, 0, None, 2)
    assert (bert.bos, bert.eos, bert.pad, bert.mask) == (2, 3, 0, 4)
    assert (t5.bos, t5.eos, t5.pad, t5.around, t5.sentinels) == (None, 1, 0, 1, (3, 4, 5, 6, 7))


def test_sentinels_and_a_template_can_be_added(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    names = [f"<extra_id_{number}>" for number in range(3)]
    _, folder, marks = take(tmp_path, gpt2_like, special=names, chat_template="{{ messages[0]['content'] }}!")
    assert len(marks.sentinels) == 3
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        t5_like(folder)
    (other / "tokenizer.json").write_bytes((one / "tokenizer.json").read_bytes())
    assert source_identity(str(one)) == source_identity(str(other))
    (other / "tokenizer_config.json").write_text("{}")
    assert source_identity(str(one)) != source_identity(str(other))
    config = TokenizerConfig(source=str(one))
    assert resolve_tokenizer(config) == {"source": source_identity(str(one))}
    assert resolve_tokenizer(TokenizerConfig()) == {}
    name = "Tokenizer/tokenizer-0123456789ab"
    assert source_identity(name) == name
    assert TOKENIZER_STAGE.resolve == "pipelines.tokens.config:resolve_tokenizer"


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    empty, broken, endless = (tmp_path / name for name in ("empty", "broken", "endless"))
    for folder in (empty, broken, endless):
        folder.mkdir()
    (broken / "tokenizer.json").write_text("{}")
    t5_like(endless)
    (endless / "special_tokens_map.json").unlink()
    for source, message in (
        (str(empty), "holds no tokenizer"),
        (str(tmp_path / "nowhere"), "is no folder, no artifact"),
        (str(broken), "tokenizer.json cannot be read"),
        (str(endless), "no token that ends a document"),
        ("Tokenizer/tokenizer-0123456789ab", "no such artifact"),
        ("hf://nobody/has-this@v1", "cannot be had from the Hub"),
    ):
        target = tmp_path / "target"
        target.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=message):
            take_tokenizer(source, store, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "x", "vocab_size": 500}, "with source: leave them out"),
        ({"vocab_size": 300, "sentinels": 100}, "no room for 256 bytes, 100 sentinels"),
        ({"special_tokens": ["<a>", "<a>"]}, "must be different"),
    ],
)
def test_mistakes_in_the_section(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)


def test_a_vocabulary_that_leaves_numbers_out_is_as_large_as_its_largest() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "two": 9}, unk_token="[UNK]"))
    assert tokenizer.get_vocab_size() == 3
    assert vocabulary_size(tokenizer) == 10
