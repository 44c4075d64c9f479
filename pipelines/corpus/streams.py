"""Bytes of a source's files as streams: from a folder or S3, unpacked by what they contain, never whole in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import InfraError
from pipelines.corpus.files import unreadable
from pipelines.corpus.source import FileSource
from pipelines.corpus.unpacking import Unpacked, compression

_BUFFER_BYTES = 256 << 10
_S3_BUFFER_BYTES = 4 << 20


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
    return io.BufferedReader(Unpacked(stored, codec, limits), _BUFFER_BYTES)


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
