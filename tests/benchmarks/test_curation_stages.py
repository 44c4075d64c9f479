"""The benchmarks of both stages: copies that are texts of their own, and (slow) one small run on Ray."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.curation_scale10x import scale10x
from benchmarks.curation_stages import vary, write_sources
from benchmarks.curation_two_workers import two_workers

TEXTS = [
    "The settlement of every question, said the chairman, depends on words\nthat nobody in this chamber has spoken.\n",
    "A second document about gardens, flowers and weather; it has numbers (12,345) and a few Names as well.\n",
    "def function(argument):\n    return argument + 1  # nothing changes outside of long words of small letters\n",
]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return {tuple(words[index : index + 5]) for index in range(len(words) - 4)}


def test_copies_are_alike_in_shape_and_share_no_runs_of_words() -> None:
    varied = list(vary(TEXTS, 3))
    assert varied[:3] == TEXTS
    for copy in range(3):
        for text, other in zip(TEXTS, varied[3 * copy : 3 * copy + 3], strict=True):
            assert re.sub("[a-z]{5,}", lambda match: "x" * len(match[0]), text) == re.sub(
                "[a-z]{5,}", lambda match: "x" * len(match[0]), other
            )
    for one in range(9):
        for two in range(one):
            if one % 3 == two % 3:
                assert len(shingles(varied[one]) & shingles(varied[two])) <= len(shingles(varied[one])) // 3
    assert list(vary(TEXTS, 3)) == varied


def test_documents_are_spread_over_files(tmp_path: Path) -> None:
    write_sources([str(number) for number in range(10)], tmp_path / "in", 4)
    files = sorted((tmp_path / "in").iterdir())
    found = [[json.loads(line)["text"] for line in file.read_text().splitlines()] for file in files]
    assert [len(each) for each in found] == [3, 3, 2, 2]
    assert sorted(int(text) for each in found for text in each) == list(range(10))


@pytest.mark.slow
@pytest.mark.ray
def test_both_measure_the_same_stages(tmp_path: Path) -> None:
    texts = [f"{text}\n{number} " * 3 for number in range(150) for text in TEXTS]
    write_sources(texts[:45], tmp_path / "small", 4)
    write_sources(texts, tmp_path / "large", 40)
    workers = two_workers(tmp_path / "large", rounds=1)
    assert workers["agreement"] == 1.0
    scaled = scale10x(tmp_path / "small", tmp_path / "large", rounds=1)
    assert scaled["documents"] == 10 * scaled["peer_documents"] == workers["documents"] == 450
    for result in (workers, scaled):
        assert all(result[name] > 50 for name in ("peak_mb", "peer_peak_mb"))
        assert result["ratio"] > 0
