"""boto3 and pyarrow reach the same server with the same credentials; a proxy sees who signed what."""

from __future__ import annotations

import datetime
import ipaddress
import os
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from cluster import s3_client
from cluster.errors import UserError
from cluster.store import Store, open_store
from tests.fault_proxy import FaultProxy

ROLE = "arn:aws:iam::123456789012:role/reader"
STATIC = "AKIASTATICSTATIC"


@pytest.fixture
def proxy(s3_store: Store, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between the server and whoever asks from now on, who has no credentials yet."""
    s3_store.write("k", b"bytes")
    anyone = {"ACL": "public-read", "Bucket": s3_store.bucket, "Key": "some/prefix/k"}
    boto3.client("s3", endpoint_url=s3_endpoint).put_object_acl(**anyone)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # which remembers earlier credentials
    with FaultProxy(s3_endpoint).running() as found:
        for name, value in {
            "AWS_ENDPOINT_URL": found.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        }.items():
            monkeypatch.setenv(name, value)
        yield found


def with_boto3(store: Store) -> bytes:
    return store.read("k")


def with_pyarrow(store: Store) -> bytes:
    filesystem, path = store.arrow("k")
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


both = pytest.mark.parametrize("read", [with_boto3, with_pyarrow])


@both
def test_keys_of_the_environment(
    read: Callable[[Store], bytes], proxy: FaultProxy, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", STATIC)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert read(open_store(s3_store.url)) == b"bytes"
    assert proxy.keys == {STATIC}


@both
def test_an_anonymous_store_signs_nothing_even_where_there_are_keys(
    read: Callable[[Store], bytes], proxy: FaultProxy, s3_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", STATIC)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_store(s3_store.url.replace("s3://", "s3://anonymous@"))
    assert store.url == s3_store.url.replace("s3://", "s3://anonymous@")
    assert read(store) == b"bytes"
    assert read(open_store(store.url)) == b"bytes"
    assert proxy.keys == {""}


@both
def test_a_profiles_role_is_assumed(
    read: Callable[[Store], bytes],
    proxy: FaultProxy,
    s3_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text(f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\nregion = us-east-1\n")
    (tmp_path / "credentials").write_text(f"[base]\naws_access_key_id = {STATIC}\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "team")
    assert read(open_store(s3_store.url)) == b"bytes"
    assumed = proxy.keys - {STATIC}  # the request for the role itself is signed with the profile's own key
    assert len(assumed) == 1 and assumed.pop().startswith("ASIA")


@both
def test_web_identity_as_kubernetes_gives_it(
    read: Callable[[Store], bytes],
    proxy: FaultProxy,
    s3_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text("a.web.token")
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    assert read(open_store(s3_store.url)) == b"bytes"
    signed = proxy.keys - {""}  # the request for the role carries the token instead of a signature
    assert len(signed) == 1 and signed.pop().startswith("ASIA")


def test_without_credentials_the_message_says_what_to_set(proxy: FaultProxy, s3_store: Store) -> None:
    with pytest.raises(UserError, match="no credentials") as caught:
        open_store(s3_store.url).read("k")
    assert "s3://anonymous@bucket" in str(caught.value)
    assert proxy.requests == 0


def test_waits_grow_at_random_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(s3_client.time, "sleep", waited.append)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    assert list(s3_client.wait_between(12)) == list(range(12))
    assert waited[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waited[-1] == 20.0
    assert waited == sorted(waited)
    monkeypatch.setattr(random, "random", lambda: 0.25)
    waited.clear()
    assert list(s3_client.wait_between(2)) == [0, 1]
    assert waited == [0.025]


def test_what_passes_is_tried_again_and_nothing_else(proxy: FaultProxy, s3_store: Store) -> None:
    """Seen from botocore: a status, a code in an answer, a connection that failed."""
    from botocore.exceptions import EndpointConnectionError, ParamValidationError, ReadTimeoutError

    def again(attempts: int, status: int = 200, code: str = "", error: Exception | None = None) -> bool:
        answer = None if error else (SimpleNamespace(status_code=status), {"Error": {"Code": code}} if code else {})
        return s3_client._again(attempts=attempts, response=answer, caught_exception=error, endpoint=None) is not None

    assert all(again(1, status) for status in (429, 500, 502, 503, 504))
    assert again(1, 400, "RequestTimeout") and again(1, 400, "BadDigest")
    assert again(1, error=EndpointConnectionError(endpoint_url="x")) and again(
        1, error=ReadTimeoutError(endpoint_url="x")
    )
    assert not any(again(1, status) for status in (200, 301, 400, 403, 404, 409, 412))
    assert not again(1, error=ParamValidationError(report="x"))
    assert again(s3_client.ATTEMPTS - 1, 503) and not again(s3_client.ATTEMPTS, 503)


def test_the_number_of_tries_is_awss_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    assert s3_client.tries() == s3_client.ATTEMPTS
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    assert s3_client.tries() == 3


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with the key and the certificate of 127.0.0.1, which nobody but itself vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(encoding)
    )
    (tmp_path / "ca.pem").write_bytes(made.public_bytes(encoding))
    return path


@both
def test_a_server_with_a_certificate_of_its_own_authority(
    read: Callable[[Store], bytes],
    proxy: FaultProxy,
    certificate: Path,
    s3_store: Store,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over TLS bodies go up in chunks with their checksum behind them, as AWS wants them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", STATIC)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultProxy(s3_endpoint).running(context) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", secure.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.with_name("ca.pem")))
        store = open_store(s3_store.url)
        assert read(store) == b"bytes"
        assert store.put_if_absent("over-tls", b"more")
        assert s3_store.read("over-tls") == b"more"
