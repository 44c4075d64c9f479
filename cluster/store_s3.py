"""A store in an S3 bucket or anything that speaks its protocol (MinIO, Ceph), through boto3.

How the server is reached and with which credentials: ``s3_client.py``. Conditional writes are S3's own
``If-None-Match`` and ``If-Match``, and each carries a mark of its own: an answer may be lost, and then the repeated
request is refused because of what the first one wrote. The mark tells that from somebody else's object, whose bytes
may be the same. Uploads carry one for the same reason.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError, UserError
from cluster.s3_client import endpoint, make_client, make_filesystem, tries, wait_between
from cluster.s3_errors import CONDITION_FAILED, CONFLICT, MISSING, code_of, explained
from cluster.store import CHUNK_BYTES, Store, StoredFile

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ANONYMOUS = "anonymous@"
WRITERS = "raymill-writers"
"""Metadata of an object: the marks of the writes that led to it, the last one first."""
WRITERS_KEPT = 16
"""A write is still known as done after so many further conditional ones."""
PARALLEL = 16
"""Objects that are copied or removed at a time."""


class S3Store(Store):
    """Objects of one bucket below a prefix.

    Args:
        bucket: the bucket's name.
        prefix: what every key is put below; may be empty.
        endpoint_url: another server than AWS, for example ``http://127.0.0.1:9000``.
        anonymous: use no credentials.
    """

    def __init__(
        self, bucket: str, prefix: str = "", endpoint_url: str | None = None, *, anonymous: bool = False
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.anonymous = anonymous
        self.url = f"s3://{ANONYMOUS if anonymous else ''}{bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @classmethod
    def open(cls, url: str) -> S3Store:
        """The store at ``s3://bucket/prefix`` or ``s3://anonymous@bucket/prefix``, at the environment's endpoint.

        Raises:
            UserError: it names no bucket, or the environment no server.
        """
        name, _, prefix = url.removeprefix("s3://").partition("/")
        bucket = name.removeprefix(ANONYMOUS)
        if not bucket:
            raise UserError("no bucket named", where=url, next_step="write s3://bucket/prefix")
        return cls(bucket, prefix, endpoint(), anonymous=name != bucket)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_client"}

    @cached_property
    def _client(self) -> Any:
        return make_client(self.endpoint_url, self.anonymous)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _call(self, key: str) -> AbstractContextManager[None]:
        return explained(self.url, self.uri(key))

    def _get(self, key: str) -> tuple[bytes, dict[str, Any]]:
        """The whole object and S3's answer; asked again where the body was cut off or does not fit its checksum."""
        from botocore.exceptions import BotoCoreError

        with self._call(key):
            for number in wait_between(last := tries()):
                answer = self._client.get_object(**self._at(key))  # which repeats a request that has no answer
                try:
                    return bytes(answer["Body"].read()), answer
                except BotoCoreError:
                    if number == last - 1:
                        raise
        raise AssertionError("the last try returns or raises")

    def read(self, key: str) -> bytes:
        return self._get(key)[0]

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            with self._call(key):
                return dict(self._client.head_object(**self._at(key)))
        except FileNotFoundError:
            return None

    def stream(self, key: str) -> Iterator[bytes]:
        from botocore.exceptions import BotoCoreError, FlexibleChecksumError

        done, tag = 0, ""
        numbers = wait_between(tries())
        with self._call(key):
            while True:
                later = {"Range": f"bytes={done}-", "IfMatch": tag} if done else {}
                answer = self._client.get_object(**self._at(key), **later)
                tag = answer["ETag"]
                try:
                    while piece := answer["Body"].read(CHUNK_BYTES):
                        done += len(piece)
                        numbers = wait_between(tries())
                        next(numbers)
                        yield piece
                    return
                except FlexibleChecksumError:  # the pieces are in somebody's hands
                    raise
                except BotoCoreError:
                    if next(numbers, None) is None:
                        raise

    def write(self, key: str, data: bytes) -> None:
        with self._call(key):
            self._client.put_object(**self._at(key), Body=data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return self._put_when(key, data, (), IfNoneMatch="*")

    def put_if_match(self, key: str, data: bytes, expected: bytes) -> bool:
        try:
            current, answer = self._get(key)
        except FileNotFoundError:
            return False
        return current == expected and self._put_when(key, data, _writers(answer), IfMatch=answer["ETag"])

    def _put_when(self, key: str, data: bytes, before: Sequence[str], **condition: str) -> bool:
        """Write on a condition.

        Args:
            before: the marks of the object that this one replaces. They stay with it, so that a write which was
                replaced at once, before its own repetition was refused, is known as done.
        """
        from botocore.exceptions import ClientError

        mark = uuid.uuid4().hex
        metadata = {WRITERS: ",".join((mark, *before)[:WRITERS_KEPT])}
        with self._call(key):
            for _ in wait_between(tries()):
                try:
                    self._client.put_object(**self._at(key), Body=data, Metadata=metadata, **condition)
                    return True
                except ClientError as error:
                    code = code_of(error)
                    if code not in CONDITION_FAILED | MISSING:
                        raise
                if self._was_written(key, mark):
                    return True
                if code not in CONFLICT:  # which is not a no: somebody else's request was under way
                    return False
        raise InfraError(
            "other writers are at the object all the time", where=self.uri(key), next_step="repeat the command"
        )

    def _was_written(self, key: str, mark: str) -> bool:
        return mark in _writers(self._head(key) or {})

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        with self._call(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            yield from pages.paginate(Bucket=self.bucket, Prefix=self._key(prefix), **options)

    def files(self, prefix: str = "") -> Iterator[StoredFile]:
        cut = len(self.prefix) + 1 if self.prefix else 0
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                if item["Key"].endswith("/"):  # the empty object by which some writers mark a folder
                    continue
                tag = str(item.get("ETag", "")).strip('"')
                yield StoredFile(item["Key"][cut:], item["Size"], item["LastModified"].timestamp(), tag)

    def folders(self, prefix: str = "") -> list[str]:
        folder = prefix.rstrip("/") + "/" if prefix else ""
        start = len(self._key(folder))
        return sorted(
            item["Prefix"][start:].rstrip("/")
            for page in self._pages(folder, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        )

    def delete(self, key: str) -> None:
        with self._call(key):
            self._client.delete_object(**self._at(key))

    def delete_all(self, prefix: str) -> int:
        """The marks that some writers make of folders go as well, and are not counted."""
        pages = self._pages(prefix.rstrip("/") + "/")
        names = [item["Key"] for page in pages for item in page.get("Contents", ())]

        def remove(name: str) -> None:
            with self._call(prefix):
                self._client.delete_object(Bucket=self.bucket, Key=name)

        _in_parallel(remove, names)
        return sum(not name.endswith("/") for name in names)

    def copy(self, source: str, target: str) -> None:
        def send(metadata: dict[str, str]) -> None:  # within S3, in several requests where the object is large
            arguments = {"Metadata": metadata, "MetadataDirective": "REPLACE"}
            self._client.copy(self._at(source), self.bucket, self._key(target), ExtraArgs=arguments)

        self._transfer(source, target, send)

    def upload(self, source: Path, key: str) -> None:
        def send(metadata: dict[str, str]) -> None:
            self._client.upload_file(str(source), self.bucket, self._key(key), ExtraArgs={"Metadata": metadata})

        self._transfer(key, key, send)

    def _transfer(self, named: str, target: str, send: Callable[[dict[str, str]], None]) -> None:
        """Send an object, in parts where it is large; errors name the key ``named``."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import ClientError

        mark = uuid.uuid4().hex
        with self._call(named):
            try:
                send({WRITERS: mark})
            except (ClientError, S3UploadFailedError) as error:
                cause = error if isinstance(error, ClientError) else error.__context__
                # The last answer may have been lost: a server may then know the upload no more, and have the object.
                if code_of(cause) != "NoSuchUpload" or not self._was_written(target, mark):
                    raise

    def download(self, key: str, target: Path) -> None:
        from botocore.exceptions import FlexibleChecksumError

        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".aside-{uuid.uuid4().hex}"
        try:
            with self._call(key):
                for number in wait_between(last := tries()):
                    try:
                        self._client.download_file(self.bucket, self._key(key), str(aside))
                        break
                    except FlexibleChecksumError:
                        if number == last - 1:
                            raise
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    def download_all(self, prefix: str, target: Path) -> Path:
        folder = prefix.rstrip("/") + "/"
        keys = [item.key for item in self.files(folder)]
        _in_parallel(lambda key: self.download(key, target / key[len(folder) :]), keys)
        return target

    def local_path(self, key: str) -> None:
        return None

    def arrow(self, key: str) -> tuple[FileSystem, str]:
        return make_filesystem(self.endpoint_url, self.anonymous), f"{self.bucket}/{self._key(key)}"


def _writers(answer: dict[str, Any]) -> tuple[str, ...]:
    """The marks of an object, from an answer about it."""
    return tuple(mark for mark in answer.get("Metadata", {}).get(WRITERS, "").split(",") if mark)


def _in_parallel(work: Callable[[str], None], keys: list[str]) -> None:
    """Do something for every key, several at a time; the first failure is raised."""
    pool = ThreadPoolExecutor(min(PARALLEL, len(keys) or 1))
    try:
        for _ in pool.map(work, keys):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
