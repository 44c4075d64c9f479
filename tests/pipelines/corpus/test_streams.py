from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipelines.corpus import unpacking
from pipelines.corpus.config import JsonlSource
from pipelines.corpus.documents import BadInput
from pipelines.corpus.streams import bounded_lines, open_text
from pipelines.corpus.unpacking import compression

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 9),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
}
NOISE = os.urandom(400_000)


def source(**keys: object) -> JsonlSource:
    return JsonlSource.model_validate({"path": "x", **keys})


def read(path: Path, limits: JsonlSource) -> tuple[bytes, str]:
    """(what could be read, the reason why no more)."""
    parts = []
    try:
        with open_text(str(path), limits) as stream:
            while data := stream.read1(1000):
                parts.append(data)
    except BadInput as error:
        return b"".join(parts), error.reason
    return b"".join(parts), ""


@pytest.mark.parametrize("codec", CODECS)
def test_files_are_unpacked_by_their_content(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(CODECS[codec](NOISE[:200_000]) + CODECS[codec](NOISE[200_000:]))  # members one after the other
    assert compression(path.read_bytes()[:6]) == codec
    assert read(path, source()) == (NOISE, "")


def test_plain_files_are_read_whatever_their_name(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(NOISE[:1000] * 3)
    assert read(path, source()) == (NOISE[:1000] * 3, "")


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_before_a_cut_is_kept(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(CODECS[codec](NOISE)[:-9])
    data, reason = read(path, source())
    assert reason == "truncated"
    assert NOISE.startswith(data)
    assert len(data) > len(NOISE) // 4
    if codec == "gzip":
        assert len(NOISE) - len(data) < 100


def test_padding_after_a_stream_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(NOISE) + bytes(200_000))
    assert read(path, source()) == (NOISE, "")


@pytest.mark.parametrize("codec", CODECS)
def test_damage_inside_is_seen(tmp_path: Path, codec: str) -> None:
    packed = bytearray(CODECS[codec](NOISE))
    packed[len(packed) // 2] ^= 0x55
    path = tmp_path / "a"
    path.write_bytes(packed)
    assert read(path, source())[1] == "damaged"


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_given_up_early(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "RATIO_COUNTS_FROM_BYTES", 1 << 20)
    path = tmp_path / "a"
    path.write_bytes(CODECS[codec](bytes(10 << 20)))
    data, reason = read(path, source())
    assert reason == "unpacks_too_far"
    assert len(data) < 3 << 20


def test_the_absolute_bound_holds_without_a_ratio(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(NOISE))
    data, reason = read(path, source(max_unpacked_bytes=100_000))
    assert reason == "unpacks_too_far"
    assert len(data) <= 100_000


@given(st.binary(max_size=300), st.integers(1, 40))
def test_lines_are_those_of_the_bytes(data: bytes, longest: int) -> None:
    lines = list(bounded_lines(io.BytesIO(data), longest))
    expected = data.split(b"\n")
    expected = [each + b"\n" for each in expected[:-1]] + ([expected[-1]] if expected[-1] else [])
    assert [line.number for line in lines] == list(range(1, len(expected) + 1))
    offset = 0
    for line, whole in zip(lines, expected, strict=True):
        assert line.offset == offset
        fits = len(whole.rstrip(b"\n")) <= longest if whole.endswith(b"\n") else len(whole) <= longest
        assert line.data == (whole if fits else None)
        offset += len(whole)
