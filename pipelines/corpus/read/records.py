"""WARC records cut out of a stream (ISO 28500:2017, section 4), and found again behind what is broken.

A record is its header, as much content as its ``Content-Length`` says, and two line ends. Where that does not hold it
is given as broken, and the next one is where a line says ``WARC/1.0`` and a header field follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader

from pipelines.corpus.documents import BadInput

_VERSION = re.compile(rb"WARC/\d\.\d{1,2}[ \t]*\r?\n")
_BEGINNING = re.compile(rb"(?<=\n)WARC/\d\.\d{1,2}[ \t]{0,8}\r?\n[A-Za-z][\w-]{0,60}[ \t]{0,8}:")
_BEGINNING_BYTES = 128
"""More than that expression needs, with the line end in front of it."""
_LINE_ENDS = re.compile(rb"[\r\n]+")
_FOLLOWS = re.compile(rb"(?:\r?\n)*(?:WARC/\d\.\d{1,2}[ \t]*\r?\n|\Z)")
_TWO_LINE_ENDS = re.compile(rb"\r?\n\r?\n")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_KIND = re.compile(rb"^WARC-Type[ \t]*:[ \t]*([\w-]{1,40})", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^Content-Length[ \t]*:[ \t]*\+?(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_LONGEST_HEADER = 64 << 10
_PIECE_BYTES = 256 << 10


@dataclass(frozen=True)
class Cut:
    """A record, or what stands where one should begin.

    Attributes:
        number: counted from 1, broken ones too.
        kind: its type, such as response; empty where it is broken.
        length: what its header says of its content, in bytes.
        data: header and content, without the line ends; None where that is more than may be held, or it is broken.
        head: how it begins.
        broken: what is wrong, where something is; and then a word to count it by.
    """

    number: int
    kind: str = ""
    length: int = 0
    data: bytes | None = None
    head: bytes = b""
    broken: str = ""
    reason: str = ""


class Records:
    """The records of a stream, of which no more than ``most`` bytes of content is held.

    BadInput from the stream passes through; after :meth:`restart` the next record is looked for from there.
    """

    def __init__(self, stream: BufferedReader, most: int) -> None:
        self._stream = stream
        self._most = most
        self._held = bytearray()
        self._damage: BadInput | None = None
        self.number = 0

    def __iter__(self) -> Iterator[Cut]:
        return self

    def __next__(self) -> Cut:
        while True:
            blank = _LINE_ENDS.match(self._held)
            del self._held[: blank.end() if blank else 0]
            if self._held:
                break
            if not self._grow():
                if self._damage:
                    raise self._damage
                raise StopIteration
        self.number += 1
        return self._cut()

    def restart(self) -> None:
        """Forget the damage, and what was read of the record that it is in."""
        self._held.clear()
        self._damage = None

    def _grow(self) -> bool:
        """Read on; False at the end, or where the stream is damaged, which is said when what is before it is used."""
        if self._damage:
            return False
        try:
            piece = self._stream.read1(_PIECE_BYTES)
        except BadInput as error:
            self._damage = error
            return False
        self._held += piece
        return bool(piece)

    def _hold(self, count: int) -> bool:
        while len(self._held) < count:
            if not self._grow():
                return False
        return True

    def _cut(self) -> Cut:
        self._hold(_BEGINNING_BYTES)
        if not _VERSION.match(self._held):
            return self._broken("no record begins here")
        end = self._header_end()
        if not end:
            short = len(self._held) < _LONGEST_HEADER
            if self._damage and short:
                raise self._damage
            return self._broken("its header does not end", "truncated" if short else "")
        header = bytes(self._held[:end])
        if _BEGINNING.search(header, 1):
            return self._broken("its header is cut off by the next record's")
        lengths, kind = _LENGTH.findall(header), _KIND.search(header)
        if not lengths or not kind:
            return self._broken("its header says no length or no type")
        length = int(lengths[-1])
        cut = Cut(self.number, kind[1].decode("ascii").lower(), length, head=header[:256])
        if length > self._most:
            del self._held[:end]
            self._pass_over(length)
            return cut
        whole = end + length
        self._hold(whole + _BEGINNING_BYTES)
        if len(self._held) < whole and self._damage:
            raise self._damage
        if len(self._held) < whole or not _FOLLOWS.match(self._held, whole):
            # This length is wrong, or the next record is broken.
            inside = _BEGINNING.search(self._held, end, whole)
            if inside or (len(self._held) > whole and not _TWO_LINE_ENDS.match(self._held, whole)):
                return self._broken("its length is wrong", beginning=end)
        data = bytes(self._held[:whole])
        del self._held[:whole]
        return replace(cut, data=data)

    def _header_end(self) -> int:
        """Where the header's blank line ends, or 0 where there is none."""
        at = 0
        while True:
            found = _BLANK_LINE.search(self._held, max(at - 2, 0), _LONGEST_HEADER)
            if found:
                return found.end()
            at = len(self._held)
            if at >= _LONGEST_HEADER or not self._grow():
                return 0

    def _pass_over(self, length: int) -> None:
        """Leave out a content that is too long to be held; a record that begins inside it shows a wrong length."""
        left = length
        while left > 0:
            found = _BEGINNING.search(self._held, 0, min(left + _BEGINNING_BYTES, len(self._held)))
            if found and found.start() < left:
                del self._held[: found.start()]
                return
            keep = 0 if len(self._held) >= left else _BEGINNING_BYTES
            drop = min(left, max(len(self._held) - keep, 0))
            del self._held[:drop]
            left -= drop
            if left and not self._grow():
                self._held.clear()
                return

    def _broken(self, what: str, reason: str = "", beginning: int = 1) -> Cut:
        """The record as broken, with the stream at the beginning of the next one."""
        head = bytes(self._held[:256])
        skipped = 0
        while True:
            found = _BEGINNING.search(self._held, beginning)
            drop = found.start() if found else max(len(self._held) - _BEGINNING_BYTES, 0)  # a line end stays in front
            del self._held[:drop]
            skipped += drop
            beginning = 1
            if found:
                rest = f"{skipped:,} bytes are left out up to the next record"
                return Cut(self.number, head=head, broken=f"{what}; {rest}", reason="broken_record")
            if not self._grow():
                skipped += len(self._held)
                self._held.clear()
                rest = f"{skipped:,} bytes are left out up to the end"
                return Cut(self.number, head=head, broken=f"{what}; {rest}", reason=reason or "broken_record")
