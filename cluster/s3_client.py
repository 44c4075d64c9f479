"""How S3 is reached: boto3's client and pyarrow's file system with the same server, credentials and patience.

Credentials come from where AWS' own tools take them: variables, profiles (a role to assume as well), web identity,
the container's or the machine's role. ``s3://anonymous@bucket`` uses none, for buckets that anybody may read.
``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL`` names another server than AWS, and ``AWS_CA_BUNDLE`` who vouches for it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.errors import UserError

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

ATTEMPTS = 8
"""Tries of one request, over about six seconds."""
BASE_SECONDS = 0.1
LONGEST_SECONDS = 20.0
_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING_CODES = {"SlowDown", "Throttling", "RequestTimeout", "InternalError", "BadDigest"}
_REFRESHED_BY_ARROW = {"iam-role", "container-role"}
_creating = threading.Lock()


def endpoint() -> str | None:
    """The server that the environment names instead of AWS.

    Raises:
        UserError: it names none.
    """
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if url := os.environ.get(name):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UserError("is not a URL", where=f"{name}={url}", next_step="write for example http://minio:9000")
            return url
    return None


def tries() -> int:
    """How often a request is tried: AWS_MAX_ATTEMPTS where it is set, as in AWS' own tools.

    Raises:
        UserError: the variable is not a number.
    """
    text = os.environ.get("AWS_MAX_ATTEMPTS") or str(ATTEMPTS)
    if not text.strip().isdigit():
        raise UserError(f"is not a number: {text}", where="AWS_MAX_ATTEMPTS", next_step="write for example 8")
    return max(int(text), 1)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures: exponential, with full jitter (M. Brooker, AWS, 2015)."""
    return random.random() * min(BASE_SECONDS * 2 ** (failures - 1), LONGEST_SECONDS)


def wait_between(times: int) -> Iterator[int]:
    """Numbers of tries from 0, with growing random waits between them."""
    for number in range(times):
        if number:
            time.sleep(backoff(number))
        yield number


def _again(attempts: int, response: Any, caught_exception: Exception | None, **_: Any) -> float | None:
    """Seconds until botocore tries a request again; None where it should not.

    botocore's own mode `standard` stops after 35 failed connections of a client, whatever its number of tries: sixteen
    downloads side by side would not survive a server that is away for a tenth of a second.
    """
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError

    if caught_exception is not None:
        passing = isinstance(caught_exception, (HTTPClientError, NoConnection))
    else:
        reply, parsed = response
        passing = reply.status_code in _PASSING_STATUS or parsed.get("Error", {}).get("Code") in _PASSING_CODES
    return backoff(attempts) if passing and attempts < tries() else None


def ca_bundle() -> str | None:
    """The file with the authorities to trust, where the environment names one.

    Raises:
        UserError: it is not there; asked here, or it would be a connection that fails and is tried again.
    """
    path = os.environ.get("AWS_CA_BUNDLE")
    if path and not Path(path).exists():
        raise UserError("no such file", where=f"AWS_CA_BUNDLE={path}", next_step="correct it, or unset it")
    return path or None


def make_client(endpoint_url: str | None, anonymous: bool) -> Any:
    """A boto3 client for S3; it may be used by several threads, and is made by one at a time."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    ca_bundle()
    settings: dict[str, Any] = {"signature_version": UNSIGNED} if anonymous else {}
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},  # see _again
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        **settings,
    )
    with _creating:
        client = boto3.client("s3", endpoint_url=endpoint_url, config=config)
    client.meta.events.register("needs-retry.s3", _again)
    return client


def make_filesystem(endpoint_url: str | None, anonymous: bool) -> S3FileSystem:
    """pyarrow's file system for the same server.

    Credentials that its SDK does not find, or would ask AWS itself for, are taken from boto3: a profile's role, web
    identity with another server, single sign-on, a helper process. They last as long as there, an hour as a rule.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    options: dict[str, Any] = {
        "anonymous": anonymous,
        "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=tries()),
        "connect_timeout": 10,
        "request_timeout": 60,
    }
    if endpoint_url:
        scheme, _, host = endpoint_url.partition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        options["region"] = region
    if bundle := ca_bundle():
        options["tls_ca_file_path"] = bundle
    if not anonymous:
        options |= _credentials_for_arrow(endpoint_url)
    return S3FileSystem(**options)


def _credentials_for_arrow(endpoint_url: str | None) -> dict[str, str]:
    """Arguments for pyarrow's file system; none where its SDK finds the credentials by itself and renews them."""
    if "AWS_ACCESS_KEY_ID" in os.environ:  # which come before everything else, in both
        return {}
    import boto3

    with _creating:
        found = boto3.session.Session().get_credentials()
    native = _REFRESHED_BY_ARROW | (set() if endpoint_url else {"assume-role-with-web-identity"})
    if found is None or found.method in native:
        return {}
    keys = found.get_frozen_credentials()
    given = {"access_key": keys.access_key, "secret_key": keys.secret_key, "session_token": keys.token}
    return {name: value for name, value in given.items() if value}
