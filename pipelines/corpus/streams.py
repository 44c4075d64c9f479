"""Bytes of a source's files as streams: from a folder or S3, unpacked by what they contain, never whole in memory.

Compression is known by the first bytes (RFC 1952 gzip, RFC 8878 Zstandard, bzip2, xz), whatever the name says. What a
compressed file may unpack to is bounded, in bytes and as a ratio; damage raises BadInput where it is met.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InfraError
from pipelines.corpus.documents import BadInput
from pipelines.corpus.files import unreadable
from pipelines.corpus.source import FileSource

RATIO_COUNTS_FROM_BYTES = 32 << 20
"""Small texts may repeat themselves as they like; a ratio alarms only past this size."""

_BUFFER_BYTES = 256 << 10
_S3_BUFFER_BYTES = 4 << 20
_UNPACK_BYTES = 8 << 10
"""Unpacked at a time: what lies in front of damage is lost by less than this."""
_XZ_MEMORY_BYTES = 256 << 20


def open_file(location: str) -> io.BufferedReader:
    """A seekable stream of a file's bytes as they are stored.

    Raises:
        UserError: a local file cannot be read.
        InfraError: S3 does not give the object.
    """
    if location.startswith("s3://"):
        return io.BufferedReader(_S3File(location), _S3_BUFFER_BYTES)
    return io.BufferedReader(_LocalFile(location), _BUFFER_BYTES)


def open_text(location: str, limits: FileSource) -> io.BufferedReader:
    """A stream of a file's bytes, unpacked where it is compressed.

    BadInput is raised where it is damaged; ``read1`` and ``readline`` give everything before that.
    """
    stored = open_file(location)
    codec = compression(stored.read(6))
    stored.seek(0)
    if codec is None:
        return stored
    return io.BufferedReader(_Unpacked(stored, codec, limits), _BUFFER_BYTES)


def compression(head: bytes) -> str | None:
    """The compression that a file's first six bytes announce: gzip, zstd, bz2, xz, or None."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"  # a frame, or a skippable frame before one
    if head.startswith(b"BZh") and head[3:4].isdigit() and head[4:6] == b"1A":
        return "bz2"
    return "xz" if head.startswith(b"\xfd7zXZ\x00") else None


@dataclass(frozen=True)
class Line:
    """One line: its number (from 1), the byte it begins at, and its bytes, or None and its beginning if too long."""

    number: int
    offset: int
    data: bytes | None
    head: bytes


def bounded_lines(stream: io.BufferedIOBase, longest: int, start: int = 0) -> Iterator[Line]:
    """The lines of a stream (LF), of which none over ``longest`` bytes is ever held; ``start`` is where it stands."""
    offset = start
    number = 0
    while data := stream.readline(longest + 1):
        number += 1
        size = len(data)
        if size <= longest or data.endswith(b"\n"):
            yield Line(number, offset, data, data[:256])
        else:
            head = data[:256]
            while data and not data.endswith(b"\n"):
                data = stream.readline(_BUFFER_BYTES)
                size += len(data)
            yield Line(number, offset, None, head)
        offset += size


class _Raw(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class _LocalFile(_Raw):
    """A local file whose failures name it."""

    def __init__(self, location: str) -> None:
        self._location = location
        try:
            self._file = Path(location).open("rb", buffering=0)  # noqa: SIM115 - closed in close
        except OSError as error:
            raise unreadable(Path(location), error) from None

    def readinto(self, buffer: Any) -> int:
        try:
            return self._file.readinto(buffer) or 0
        except OSError as error:
            raise unreadable(Path(self._location), error) from None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


class _S3File(_Raw):
    """An object in S3, by ranges; a failure is one of the infrastructure and never of the input."""

    def __init__(self, location: str) -> None:
        from cluster.store_s3 import S3Store

        self._location = location
        bucket, _, key = location.removeprefix("s3://").partition("/")
        with _s3_failures(location):
            files, path = S3Store.open(f"s3://{bucket}").arrow(key)
            self._file = files.open_input_file(path)

    def readinto(self, buffer: Any) -> int:
        with _s3_failures(self._location):
            return int(self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


class _s3_failures:
    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise InfraError(
                f"the object cannot be read: {error}",
                where=self._location,
                next_step="check the endpoint, the network and the permissions, then repeat the command",
            ) from error


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


class _Unpacked(io.RawIOBase):
    """A compressed stream's content, within the bounds of its source."""

    def __init__(self, stored: io.BufferedReader, codec: str, limits: FileSource) -> None:
        import pyarrow as pa

        self._stored = stored
        self._counted = _Counted(stored)
        self._limits = limits
        self._unpacked = 0
        self._ended: BadInput | None = None
        self._stream: Any
        if codec == "xz":
            self._stream = _Xz(self._counted)
        else:
            self._stream = pa.CompressedInputStream(pa.PythonFile(self._counted, mode="r"), codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and not self._ended:
            try:
                data = self._stream.read(min(len(buffer) - filled, _UNPACK_BYTES))
                self._unpacked += len(data)
                self._check()
            except (OSError, EOFError, lzma.LZMAError) as error:
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


def _damage(error: Exception) -> BadInput:
    if isinstance(error, EOFError) or "runcated" in str(error):
        return BadInput("truncated", "is cut off: its compressed data does not end")
    return BadInput("damaged", f"its compressed data is damaged ({error})")


class _Xz:
    """xz streams one after the other, with bounded memory."""

    def __init__(self, source: io.RawIOBase) -> None:
        self._source = source
        self._inner = self._fresh()
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end.

        Raises:
            EOFError, lzma.LZMAError: the data is cut off, or is damaged or needs too much memory.
        """
        while True:
            if self._inner.eof:
                self._rest = self._inner.unused_data.lstrip(b"\0") or (self._source.read(1 << 16) or b"").lstrip(b"\0")
                if not self._rest:
                    return b""
                self._inner = self._fresh()
            if self._inner.needs_input and not self._rest:
                self._rest = self._source.read(1 << 16) or b""
                if not self._rest:
                    raise EOFError
            data = self._inner.decompress(self._rest, size)
            self._rest = b""
            if data:
                return data

    @staticmethod
    def _fresh() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
