from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curate.clusters import EXACT, NEAR, Candidate, connected, find_duplicates
from pipelines.curate.config import MinHashConfig
from pipelines.curate.minhash import MinHasher, comparable_words, content_hash, meeting_probability
from pipelines.curate.split import split

DEFAULT = MinHashConfig.model_validate({})


def shingle_sets(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def pair(similarity: float, size: int, seed: int) -> tuple[list[str], list[str], float]:
    """Two word lists whose shingle sets have about this Jaccard similarity, and the true one by brute force."""
    shared = [f"s{seed}x{i}" for i in range(size)]
    own = round(size * (1 - similarity) / (2 * similarity))
    one = shared + [f"a{seed}x{i}" for i in range(own)]
    other = shared + [f"b{seed}x{i}" for i in range(own)]
    first, second = shingle_sets(one, 5), shingle_sets(other, 5)
    return one, other, len(first & second) / len(first | second)


def test_signatures_estimate_the_true_similarity() -> None:
    hasher = MinHasher(MinHashConfig(bands=64, rows=16))  # 1,024 hashes: standard error at most 0.016
    for similarity in (0.1, 0.3, 0.5, 0.7, 0.9):
        one, other, true = pair(similarity, 400, int(similarity * 10))
        estimate = float(np.mean(hasher.signature(one) == hasher.signature(other)))
        assert abs(estimate - true) < 0.055, (true, estimate)


def test_pairs_meet_as_often_as_the_formula_says() -> None:
    hasher = MinHasher(DEFAULT)
    for similarity in (0.4, 0.65, 0.75, 0.9):
        met, expected = 0, 0.0
        for seed in range(60):
            one, other, true = pair(similarity, 200, seed)
            keys = [hasher.band_keys(hasher.signature(words)) for words in (one, other)]
            met += bool((keys[0] == keys[1]).any())
            expected += meeting_probability(true, 14, 8)
        assert abs(met - expected) <= 12, (similarity, met, expected)  # about three standard deviations


def test_shingles_are_the_distinct_ngrams() -> None:
    words = "to be or not to be or not to be".split()  # noqa: SIM905
    assert len(MinHasher(DEFAULT).shingles(words)) == len(shingle_sets(words, 5))
    assert len(MinHasher(DEFAULT).shingles(["two", "words"])) == 1
    assert len(MinHasher(DEFAULT).shingles([])) == 0


def mixed(value: int) -> int:
    """MurmurHash3's 64-bit finaliser, in plain integers."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = ((value ^ (value >> 33)) * factor) % 2**64
    return value ^ (value >> 33)


def test_signatures_against_plain_integers() -> None:
    config = MinHashConfig(ngram=3, bands=4, rows=2, seed=5)
    words = "a rose is a rose is a rose and so on".split()  # noqa: SIM905
    numbers = [xxhash.xxh64_intdigest(word.encode()) for word in words]
    shingles = set()
    for i in range(len(words) - 2):
        combined = 0
        for number in numbers[i : i + 3]:
            combined = (combined * 0xBF58476D1CE4E5B9 + number) % 2**64
        shingles.add(mixed(combined) >> 32)
    generator = np.random.Generator(np.random.PCG64(5))
    a = [2 * int(value) + 1 for value in generator.integers(0, 2**63, 8, dtype=np.uint64)]
    b = [2 * int(value) for value in generator.integers(0, 2**63, 8, dtype=np.uint64)]
    expected = [min(((p * x + q) % 2**64) >> 32 for x in shingles) for p, q in zip(a, b, strict=True)]
    hasher = MinHasher(config)
    assert hasher.signature(words).tolist() == expected
    keys = []
    for band in range(4):
        key = 0
        for value in expected[2 * band : 2 * band + 2]:
            key = mixed((key * 0xBF58476D1CE4E5B9 + value + 1) % 2**64)
        keys.append(key)
    assert hasher.band_keys(hasher.signature(words)).tolist() == keys


def test_default_signatures_never_change() -> None:
    """Golden, from this code: another value here means that the stage's version must be raised."""
    hasher = MinHasher(DEFAULT)
    signature = hasher.signature(comparable_words("The quick brown fox jumps over the lazy dog"))
    assert signature[:4].tolist() == [460642186, 17867032, 22499214, 318215305]
    assert hasher.band_keys(signature)[:2].tolist() == [10463414040946416861, 14578344523984611975]


def test_texts_are_compared_by_words_only() -> None:
    assert comparable_words("Don't PANIC -- ever!") == ["don", "t", "panic", "ever"]
    assert content_hash(comparable_words("a B\nc.")) == content_hash(comparable_words("A, b c"))
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"])


def candidate(name: str, words: list[str], length: int | None = None) -> Candidate:
    hasher = MinHasher(DEFAULT)
    bands = hasher.band_keys(hasher.signature(words)).tobytes() if words else b""
    return Candidate(name, len(" ".join(words)) if length is None else length, content_hash(words), bands)


def test_the_longest_stays_then_the_smallest_id() -> None:
    words = [f"w{i}" for i in range(200)]
    nearly = [*words, "more"]
    documents = [
        candidate("b", words, 10),
        candidate("a", words, 10),
        candidate("c", words, 12),
        candidate("d", nearly, 11),
        candidate("e", [f"v{i}" for i in range(200)]),
    ]
    found = find_duplicates(documents, exact=True, near=True)
    assert {name: (each.reason, each.duplicate_of) for name, each in found.items()} == {
        "a": (EXACT, "c"),
        "b": (EXACT, "c"),
        "d": (NEAR, "c"),
    }


def test_an_exact_duplicate_of_a_near_duplicate_points_to_what_is_kept() -> None:
    words = [f"w{i}" for i in range(200)]
    documents = [candidate("long", [*words, "more"]), candidate("x", words), candidate("y", words)]
    found = find_duplicates(documents, exact=True, near=True)
    assert {(name, each.reason, each.duplicate_of) for name, each in found.items()} == {
        ("x", NEAR, "long"),
        ("y", EXACT, "long"),
    }
    assert find_duplicates(documents, exact=False, near=False) == {}
    assert {each.reason for each in find_duplicates(documents, exact=False, near=True).values()} == {NEAR}


def test_documents_without_words_are_no_near_duplicates() -> None:
    documents = [Candidate(name, 3, name.encode(), b"") for name in "abc"]
    assert find_duplicates(documents, exact=True, near=True) == {}


KEYS = st.lists(st.lists(st.integers(0, 12), min_size=3, max_size=3), max_size=25)


@given(KEYS)
def test_components_against_brute_force(rows: list[list[int]]) -> None:
    label = list(range(len(rows)))
    for _ in rows:  # label propagation until nothing can change
        for one, other in combinations(range(len(rows)), 2):
            if any(a == b for a, b in zip(rows[one], rows[other], strict=True)):
                label[one] = label[other] = min(label[one], label[other])
    assert connected(np.array(rows, np.uint64).reshape(len(rows), 3), len(rows)) == label


@given(KEYS, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_answer(rows: list[list[int]], order: random.Random) -> None:
    documents = [
        Candidate(f"{i:03d}", row[0] % 4, str(row).encode(), np.array(row, np.uint64).tobytes())
        for i, row in enumerate(rows)
    ]
    expected = find_duplicates(documents, exact=True, near=True)
    order.shuffle(documents)
    assert find_duplicates(documents, exact=True, near=True) == expected
    kept = {each.id for each in documents} - set(expected)
    assert all(each.duplicate_of in kept for each in expected.values())


def test_planted_near_duplicates_are_found_among_strangers() -> None:
    random.seed(7)
    vocabulary = [f"word{i}" for i in range(2000)]
    originals = [[random.choice(vocabulary) for _ in range(300)] for _ in range(60)]
    documents = [candidate(f"o{i:02d}", words) for i, words in enumerate(originals)]
    for i in range(20):
        changed = list(originals[i])
        changed[random.randrange(300)] = "changed"
        documents.append(candidate(f"p{i:02d}", changed, length=1))
    found = find_duplicates(documents, exact=True, near=True)
    assert {name: each.duplicate_of for name, each in found.items()} == {f"p{i:02d}": f"o{i:02d}" for i in range(20)}


def test_the_split_is_stable_and_of_the_right_size() -> None:
    documents = [Candidate(str(i), 1, content_hash([str(i)]), b"") for i in range(4000)]
    placed = split(documents, 0.05)
    held_out = [name for name, side in placed.items() if side == "validation"]
    assert 150 < len(held_out) < 250
    some = documents[::3]
    assert {name: placed[name] for name in split(some, 0.05)} == split(some, 0.05)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_small_corpora_get_both_sides(count: int) -> None:
    documents = [Candidate(str(i), 1, content_hash([str(i)]), b"") for i in range(count)]
    sides = set(split(documents, 0.001).values())
    assert sides == ({"train"} if count == 1 else {"train", "validation"})
    assert set(split(documents, 0.0).values()) == {"train"}
