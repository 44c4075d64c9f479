from __future__ import annotations

import functools
import hashlib
import os
import random
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.curate import comparable
from pipelines.curate.comparable import ComparableText
from pipelines.curate.config import MinHashConfig
from pipelines.curate.minhash import (
    MinHasher,
    comparable_words,
    content_hash,
    meeting_probability,
    mix,
    unmix,
    xxh64,
)

FAST = MinHashConfig(words="fast")
AWKWARD = [
    "Don't can't cannot 3.5km 10km $5 €12.50 1.2.3 1,000,000 5pm 0am I'm gonna",
    "nai\u0301ve \u0301 Ärger ΣΑΣ ΑΣ İstanbul ｆｕｌｌ １２３ ٣٫٤ 東京 it‘s U.S.A. ﬁ ½",
    "１.2.3 ٣.5.5 3٫5.2 x1.2.3",
    "tabs\tand\x0bcontrols\x00\x1c\x85 \u2028x \u200b • §5 a_b e-mail 0km² (x:D) --- ''",
    "",
    " \n ",
    "\u0301",
]


def shingle_sets(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def pair(similarity: float, size: int, seed: int) -> tuple[str, str, float]:
    """Two texts whose shingle sets have about this Jaccard similarity, and the true one by brute force."""
    shared = [f"s{letters(seed)}x{letters(i)}" for i in range(size)]
    own = round(size * (1 - similarity) / (2 * similarity))
    one = shared + [f"a{letters(seed)}x{letters(i)}" for i in range(own)]
    other = shared + [f"b{letters(seed)}x{letters(i)}" for i in range(own)]
    first, second = shingle_sets(one, 5), shingle_sets(other, 5)
    return " ".join(one), " ".join(other), len(first & second) / len(first | second)


def letters(number: int) -> str:
    """A number in letters, since every number in digits is the same word."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def test_hashes_are_xxh64() -> None:
    for size in range(70):
        data = os.urandom(size)
        assert xxh64(np.frombuffer(b"abc" + data + b"x", np.uint8), 3, 3 + size) == xxhash.xxh64_intdigest(data)


def test_signatures_against_plain_integers() -> None:
    config = MinHashConfig(ngram=3, bands=4, rows=2, seed=5, words="fast")
    words = "a rose is a rose is a rose and so on".split()  # noqa: SIM905
    prime = 2**61 - 1
    generator = np.random.RandomState(5)
    a = [int(value) for value in generator.randint(1, prime, dtype=np.uint64, size=8)]
    b = [int(value) for value in generator.randint(0, prime, dtype=np.uint64, size=8)]
    shingles = [xxhash.xxh64_intdigest(" ".join(words[i : i + 3]).encode()) for i in range(len(words) - 2)]
    expected = [min(((p * x + q) % 2**64) % prime for x in shingles) for p, q in zip(a, b, strict=True)]
    found, has = MinHasher(config).signatures(["A rose is -- a ROSE is a rose, and so on.", "two words"])
    assert found[0].tolist() == expected
    assert has.tolist() == [True, False]


def test_default_signatures_never_change() -> None:
    """Golden, from datatrove 0.10.1 (the next test): another value means that the stage's version must be raised."""
    hasher = MinHasher(FAST)
    signatures, _ = hasher.signatures(["The quick brown fox jumps over the lazy dog"])
    assert signatures[0, :3].tolist() == [85330943174081874, 663359892825767826, 302227827184868053]
    assert hasher.band_keys(signatures)[0, :2].tolist() == [18011802416043543662, 3590822123359040820]


@pytest.fixture(scope="module")
def reference() -> MinHasher:
    return MinHasher(MinHashConfig.model_validate({}))


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("datatrove")
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    made = MinhashDedupSignature(str(tmp_path_factory.mktemp("signatures")))
    made._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())  # xxhash 4 wants bytes, datatrove gives a str
    return made


def peer_signature(peer: Any, text: str) -> list[int]:
    shingles = peer.get_shingles(text)
    return [number for band in peer.get_signature(shingles) for number in band] if shingles.size else []


def test_signatures_are_those_of_datatrove(reference: MinHasher, peer: Any) -> None:
    from pydoc_data.topics import topics

    texts = [*AWKWARD, *(topics[name] for name in ("assert", "numeric-types", "exprlists", "formatstrings"))]
    texts.append("The quick brown fox jumps over the lazy dog")
    found, has = reference.signatures(texts)
    for text, signature, signed in zip(texts, found, has, strict=True):
        assert (signature.tolist() if signed else []) == peer_signature(peer, text), text


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("aAb'’.,-$€%&5 03３٣\n\té\u0301ßΣσ東km#_/:;()x\u00a0\u200b"), max_size=40))
def test_words_are_those_of_datatrove(text: str) -> None:
    pytest.importorskip("datatrove")
    from datatrove.utils.text import simplify_text
    from datatrove.utils.typeshelper import Languages
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    expected = load_word_tokenizer(Languages.english).word_tokenize(simplify_text(text))
    assert _ours().encode(text).decode().split() == expected


@functools.cache
def _ours() -> ComparableText:
    return ComparableText()


def test_the_memo_is_bounded_and_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparable, "_MEMO_CHUNKS", 3)
    small = ComparableText("fast")
    texts = [f"one {letters(i)} two {letters(i + 1)}" for i in range(20)]
    assert [small.encode(text).decode() for text in texts] == texts
    assert len(small._memo) < 9


def test_a_million_characters_without_a_blank_take_no_time() -> None:
    text = "x•y" * 300_000
    began = time.process_time()
    assert _ours().encode(text).decode() == text
    assert time.process_time() - began < 5
    assert text.encode() not in _ours()._memo


def test_no_learning_library_is_loaded_for_words() -> None:
    code = "import sys; from pipelines.curate.english import english_tokenizer as load; load()"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_signatures_estimate_the_true_similarity() -> None:
    hasher = MinHasher(MinHashConfig(bands=64, rows=16, words="fast"))  # 1,024 hashes: standard error at most 0.016
    for similarity in (0.1, 0.3, 0.5, 0.7, 0.9):
        one, other, true = pair(similarity, 400, int(similarity * 10))
        signatures, _ = hasher.signatures([one, other])
        assert abs(float(np.mean(signatures[0] == signatures[1])) - true) < 0.055, true


def test_pairs_meet_as_often_as_the_formula_says() -> None:
    """Recall above the threshold and precision below it, with brute-force Jaccard as the truth."""
    hasher = MinHasher(FAST)
    for similarity in (0.4, 0.65, 0.75, 0.9):
        met, expected = 0, 0.0
        for seed in range(60):
            one, other, true = pair(similarity, 200, seed)
            keys = hasher.band_keys(hasher.signatures([one, other])[0])
            met += bool((keys[0] == keys[1]).any())
            expected += meeting_probability(true, 14, 8)
        assert abs(met - expected) <= 12, (similarity, met, expected)  # about three standard deviations


def test_recall_and_precision_by_brute_force() -> None:
    source = random.Random(11)
    vocabulary = [letters(i) for i in range(2000)]
    texts = []
    for _ in range(40):
        words = [source.choice(vocabulary) for _ in range(120)]
        texts.append(words)
        for rate in (0.01, 0.05, 0.15, 0.5):
            texts.append([source.choice(vocabulary) if source.random() < rate else word for word in words])
    hasher = MinHasher(FAST)
    keys = hasher.band_keys(hasher.signatures(" ".join(words) for words in texts)[0])
    sets = [shingle_sets(words, 5) for words in texts]
    alike = found_alike = found = wrong = 0
    for one in range(len(texts)):
        for other in range(one):
            true = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
            meets = bool((keys[one] == keys[other]).any())
            alike += true >= 0.9
            found_alike += meets and true >= 0.9
            found += meets
            wrong += meets and true < 0.4
    assert alike > 20
    assert found_alike >= 0.99 * alike
    assert wrong <= 0.02 * found


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_mixing_is_one_to_one(values: list[int]) -> None:
    numbers = np.array(values, np.uint64)
    assert unmix(mix(numbers)).tolist() == values


def test_bands_of_different_number_never_meet() -> None:
    hasher = MinHasher(MinHashConfig(bands=2, rows=1, words="fast"))
    keys = hasher.band_keys(np.full((1, 2), 7, np.uint64))
    assert keys[0, 0] != keys[0, 1]


def test_exact_duplicates_are_told_by_words_only() -> None:
    assert comparable_words("Don't PANIC -- ever!") == ["don", "t", "panic", "ever"]
    assert content_hash("a B\nc.") == content_hash("A, b “c”")
    assert content_hash("ab c") != content_hash("a bc")
    assert content_hash("!!!") != content_hash("???")


@given(st.text(st.sampled_from("aB_1 ,.\n\x1c-é")))
def test_content_hashes_are_of_the_comparable_words(text: str) -> None:
    words = " ".join(comparable_words(text)) or text
    assert content_hash(text) == hashlib.sha256(words.encode()).digest()[:16]
