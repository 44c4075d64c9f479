"""A store in an S3 bucket or anything that speaks its protocol (MinIO, Ceph), through boto3.

Credentials and region come from the usual AWS places; ``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``) points
at another server. Conditional writes are S3's own ``If-None-Match`` and ``If-Match``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError, UserError
from cluster.store import CHUNK_BYTES, Store, StoredFile

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_MISSING = {"404", "NoSuchKey", "NotFound"}
_CONDITION_FAILED = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_DENIED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3Store(Store):
    """Objects of one bucket below a prefix.

    Args:
        bucket: the bucket's name.
        prefix: what every key is put below; may be empty.
        endpoint_url: another server than AWS, for example ``http://127.0.0.1:9000``.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint_url: str | None = None) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.url = f"s3://{bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @classmethod
    def open(cls, url: str) -> S3Store:
        """The store at ``s3://bucket/prefix``, with the endpoint that the environment names."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise UserError("no bucket named", where=url, next_step="write s3://bucket/prefix")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return cls(bucket, prefix, endpoint)

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_client"}

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = Config(
            retries={"max_attempts": 5, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=32,
        )
        return boto3.client("s3", endpoint_url=self.endpoint_url, config=settings)

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _call(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._explain(error, key) from error
        except BotoCoreError as error:
            raise InfraError(
                f"the S3 store does not answer: {error}",
                where=self.uri(key),
                next_step="check the endpoint, the network and the AWS_… variables, then repeat the command",
            ) from error

    def _explain(self, error: Any, key: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _MISSING:
            return FileNotFoundError(self.uri(key))
        if code == "NoSuchBucket":
            return UserError("no such bucket", where=self.url, next_step="create the bucket, or name another store")
        if code in _DENIED:
            return UserError(
                f"the S3 store refuses access ({code})",
                where=self.uri(key),
                next_step="check the credentials and the bucket's policy",
            )
        return InfraError(
            f"the S3 store failed: {error}", where=self.uri(key), next_step="repeat the command; it continues"
        )

    def read(self, key: str) -> bytes:
        with self._call(key):
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read())

    def exists(self, key: str) -> bool:
        try:
            with self._call(key):
                self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except FileNotFoundError:
            return False
        return True

    def stream(self, key: str) -> Iterator[bytes]:
        with self._call(key):
            body = self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]
            while piece := body.read(CHUNK_BYTES):
                yield piece

    def write(self, key: str, data: bytes) -> None:
        with self._call(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def _put_when(self, key: str, data: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        with self._call(key):
            try:
                self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **condition)
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code not in _CONDITION_FAILED | _MISSING:
                    raise
                return False
        return True

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._put_when(key, data, IfNoneMatch="*"):
            return True
        # A retried request whose first answer was lost finds its own object: that is a win, not a defeat.
        return self._holds(key, data)

    def put_if_match(self, key: str, data: bytes, expected: bytes) -> bool:
        try:
            with self._call(key):
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
                current = answer["Body"].read()
        except FileNotFoundError:
            return False
        if current != expected:
            return False
        return self._put_when(key, data, IfMatch=answer["ETag"]) or self._holds(key, data)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.read(key) == data
        except FileNotFoundError:
            return False

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
            self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def delete_all(self, prefix: str) -> int:
        count = super().delete_all(prefix)
        for page in self._pages(prefix.rstrip("/") + "/"):
            for item in page.get("Contents", ()):
                self._client.delete_object(Bucket=self.bucket, Key=item["Key"])
        return count

    def copy(self, source: str, target: str) -> None:
        with self._call(source):  # within S3, in several requests where the object is large
            place = {"Bucket": self.bucket, "Key": self._key(source)}
            self._client.copy(place, self.bucket, self._key(target))

    def upload(self, source: Path, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError

        with self._call(key):
            try:
                self._client.upload_file(str(source), self.bucket, self._key(key))
            except S3UploadFailedError as error:
                raise InfraError(
                    f"upload failed: {error}", where=self.uri(key), next_step="repeat the command; it continues"
                ) from error

    def download(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".aside-{uuid.uuid4().hex}"
        try:
            with self._call(key):
                self._client.download_file(self.bucket, self._key(key), str(aside))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)

    def local_path(self, key: str) -> None:
        return None

    def arrow(self, key: str) -> tuple[FileSystem, str]:
        from pyarrow.fs import S3FileSystem

        options: dict[str, Any] = {}
        if self.endpoint_url:
            scheme, _, host = self.endpoint_url.partition("://")
            options = {"endpoint_override": host.rstrip("/"), "scheme": scheme}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            options["region"] = region
        return S3FileSystem(**options), f"{self.bucket}/{self._key(key)}"
