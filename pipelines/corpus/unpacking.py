"""Compressed files as streams of bounded size: gzip (RFC 1952), Zstandard (RFC 8878), bzip2 and xz.

What a file may unpack to is bounded, in bytes and as a ratio; damage raises BadInput after everything in front of it.
"""

from __future__ import annotations

import bz2
import functools
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from pipelines.corpus.documents import BadInput
from pipelines.corpus.source import FileSource

RATIO_COUNTS_FROM_BYTES = 32 << 20
"""Small texts may repeat themselves as they like; a ratio alarms only past this size."""

_GZIP = b"\x1f\x8b\x08"
_UNPACK_BYTES = 8 << 10
"""Unpacked at a time; with Zstandard, less than this is lost in front of damage."""
_STORED_BYTES = 64 << 10
_XZ_MEMORY_BYTES = 256 << 20


def compression(head: bytes) -> str | None:
    """The compression that a file's first six bytes announce: gzip, zstd, bz2, xz, or None."""
    if head.startswith(_GZIP):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"  # a frame, or a skippable frame before one
    if head.startswith(b"BZh") and head[3:4].isdigit() and head[4:6] == b"1A":
        return "bz2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else None


class _Counted(io.RawIOBase):
    """What a decompressor reads from, with the bytes that it took."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self.taken = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self.taken += count
        return count


class Unpacked(io.RawIOBase):
    """A compressed stream's content, within the bounds of its source."""

    def __init__(self, stored: io.BufferedReader, codec: str, limits: FileSource) -> None:
        import pyarrow as pa

        self._stored = stored
        self._counted = _Counted(stored)
        self._limits = limits
        self._codec = codec
        self._unpacked = 0
        self._ended: BadInput | None = None
        self._stream: Any
        if codec == "zstd":
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._counted, mode="r"), codec)
        else:
            self._stream = _Members(self._counted, codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and not self._ended:
            try:
                data = self._stream.read(min(len(buffer) - filled, _UNPACK_BYTES))
                self._unpacked += len(data)
                self._check()
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                self._ended = _damage(error)
            except BadInput as error:
                self._ended = error
            else:
                if not data:
                    break
                buffer[filled : filled + len(data)] = data
                filled += len(data)
        if self._ended and not filled:  # what came before the damage is given first
            raise self._ended
        return filled

    def skip_to_member(self, content: bytes) -> bool:
        """Go on behind damage, at the next gzip member whose content begins so; False where there is none."""
        if self._codec != "gzip" or self._ended is None or self._ended.reason == "unpacks_too_far":
            return False
        place = _find_member(self._stored, self._stream.start + 1, content)
        if place is None:
            return False
        self._stored.seek(place)
        self._counted.taken = place
        self._stream, self._ended = _Members(self._counted, "gzip"), None
        return True

    def close(self) -> None:
        if not self.closed:
            self._stored.close()
        super().close()

    def _check(self) -> None:
        if self._unpacked > self._limits.max_unpacked_bytes:
            raise BadInput("unpacks_too_far", f"unpacks to more than {self._limits.max_unpacked_bytes:,} bytes")
        ratio = self._unpacked / max(self._counted.taken, 1)
        if self._unpacked > RATIO_COUNTS_FROM_BYTES and ratio > self._limits.max_unpack_ratio:
            raise BadInput("unpacks_too_far", f"unpacks to more than {self._limits.max_unpack_ratio:g} times its size")


def find_member(stream: io.BufferedReader, content: bytes) -> bool:
    """Let a stream of open_text that was damaged go on at its next gzip member whose content begins so."""
    return isinstance(stream.raw, Unpacked) and stream.raw.skip_to_member(content)


def _find_member(stored: io.BufferedReader, start: int, content: bytes) -> int | None:
    """The first byte at or behind ``start`` of a gzip member that unpacks to something that begins with ``content``."""
    at, held = start, b""
    stored.seek(start)
    while True:
        found = held.find(_GZIP)
        while found >= 0:
            stored.seek(at + found)
            if _begins_with(stored.read(_STORED_BYTES), content):
                return at + found
            found = held.find(_GZIP, found + 1)
        keep = min(len(held), len(_GZIP) - 1)
        at += len(held) - keep
        stored.seek(at + keep)
        piece = stored.read(_STORED_BYTES)
        if not piece:
            return None
        held = held[len(held) - keep :] + piece


def _begins_with(data: bytes, content: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(data, len(content)) == content
    except zlib.error:
        return False


def _damage(error: Exception) -> BadInput:
    if isinstance(error, EOFError) or "runcated" in str(error):
        return BadInput("truncated", "is cut off: its compressed data does not end")
    return BadInput("damaged", f"its compressed data is damaged ({error})")


class _Members:
    """Compressed streams one after the other, as gzip, bzip2 and xz allow, with all that is in front of damage.

    Attributes:
        start: the byte of the file at which the stream that is being read begins.
    """

    def __init__(self, source: _Counted, codec: str) -> None:
        self.start = source.taken
        self._source = source
        self._fresh = _DECOMPRESSORS[codec]
        self._inner = self._fresh()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            EOFError, OSError, LZMAError, zlib.error: the data is cut off, or is damaged or needs too much memory.
        """
        while True:
            if self._inner.eof:  # zero bytes may fill up a block behind the last stream
                self._rest = self._inner.unused_data.lstrip(b"\0")
                while not self._rest:
                    data = self._source.read(_STORED_BYTES) or b""
                    if not data:
                        return b""
                    self._rest = data.lstrip(b"\0")
                self._inner = self._fresh()
                self.start = self._source.taken - len(self._rest)
            if self._inner.needs_input and not self._rest:
                self._rest = self._source.read(_STORED_BYTES) or b""
            stored, self._rest = self._rest, b""
            data = self._inner.decompress(stored, size)
            if data:
                return data
            if not stored and not self._inner.eof:  # nothing more comes in, and nothing out
                raise EOFError


class _Gzip:
    """zlib with the interface of the standard library's other decompressors."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, size: int) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, size)


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": functools.partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
}
