"""Sources in S3: the same documents, with the same ids, as from a folder."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import InfraError, UserError
from cluster.store import Store
from cluster.store_s3 import S3Store
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.sources import resolve
from pipelines.corpus.streams import open_file
from pipelines.corpus.walking import glob_pattern

FILES = {
    "data/a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "data/deep/b.jsonl.gz": gzip.compress(b'{"text": "three"}\n'),
    "data/deep/.hidden.jsonl": b"not read",
    "data/deep/c.txt": b"a text",
    "database/d.jsonl": b"not read",
}


@pytest.fixture
def bucket(s3_store: Store) -> str:
    """A bucket with the files in it; its address."""
    assert isinstance(s3_store, S3Store)
    client = boto3.client("s3", endpoint_url=s3_store.endpoint_url)
    for key, data in FILES.items():
        client.put_object(Bucket=s3_store.bucket, Key=key, Body=data)
    return f"s3://{s3_store.bucket}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with the same files."""
    for key, data in FILES.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("data", ["one", "three", "two"]),
        ("data/", ["one", "three", "two"]),
        ("data/a.jsonl", ["one", "two"]),
        ("data/*.jsonl", ["one", "two"]),
        ("data/**/*.jsonl*", ["one", "three", "two"]),
        ("d*/a.jsonl", ["one", "two"]),
        ("data/deep/[!x].jsonl.gz", ["three"]),
    ],
)
def test_documents_are_those_of_the_folder(
    bucket: str, folder: Path, read_source: Callable[..., Any], path: str, texts: list[str]
) -> None:
    there = read_source(kind="jsonl", path=f"{bucket}/{path}")
    here = read_source(kind="jsonl", path=f"{folder}/{path}")
    assert sorted(there.texts) == texts
    assert there.documents == here.documents


def test_other_kinds_are_read_from_there_too(bucket: str, tmp_path: Path, read_source: Callable[..., Any]) -> None:
    client = boto3.client("s3")
    pq.write_table(pa.table({"text": [f"row {number}" for number in range(5000)]}), tmp_path / "p", row_group_size=100)
    name = bucket.removeprefix("s3://")
    client.upload_file(str(tmp_path / "p"), name, "tables/p.parquet")
    assert len(read_source(1 << 16, kind="parquet", path=f"{bucket}/tables").texts) == 5000
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(20_000))
    client.put_object(Bucket=name, Key="lines/l.jsonl", Body=lines)
    found = read_source(1 << 16, kind="jsonl", path=f"{bucket}/lines").texts
    assert sorted(map(int, found)) == list(range(20_000))


def test_a_public_bucket_is_read_without_credentials(
    bucket: str, folder: Path, read_source: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in FILES:
        boto3.client("s3").put_object_acl(Bucket=bucket.removeprefix("s3://"), Key=key, ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # which remembers earlier credentials
    public = bucket.replace("s3://", "s3://anonymous@")
    there = read_source(kind="jsonl", path=f"{public}/data")
    assert there.documents == read_source(kind="jsonl", path=f"{folder}/data").documents


def test_identity_is_the_content_and_not_the_place(bucket: str) -> None:
    def identity(path: str) -> dict[str, Any]:
        return resolve(CorpusConfig.model_validate({"sources": [{"kind": "jsonl", "path": path}]}))

    before = identity(f"{bucket}/data")
    client = boto3.client("s3")
    name = bucket.removeprefix("s3://")
    for key, data in FILES.items():
        client.put_object(Bucket=name, Key=f"copy/{key}", Body=data)
    assert identity(f"{bucket}/copy/data") == before
    assert name not in json.dumps(before)
    client.put_object(Bucket=name, Key="data/a.jsonl", Body=b'{"text": "ONE"}\n{"text": "two"}\n')
    assert identity(f"{bucket}/data") != before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nothing", "no such object or folder"),
        ("/data/*.csv", "no object matches"),
        ("/database/../x", "no such object"),
        ("-none/data", "no such bucket"),
    ],
)
def test_places_that_lead_nowhere(bucket: str, path: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(CorpusConfig.model_validate({"sources": [{"kind": "jsonl", "path": bucket + path}]}))


def test_an_object_that_goes_away_is_no_bad_input(bucket: str) -> None:
    with pytest.raises(InfraError, match="cannot be read"):
        open_file(f"{bucket}/data/gone.jsonl")


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a/*.md", "a/b.md", True),
        ("a/*.md", "a/b/c.md", False),
        ("a/**/*.md", "a/c.md", True),
        ("a/**/*.md", "a/b/d/c.md", True),
        ("a/**/*.md", "a/.b/c.md", False),
        ("a/*", "a/.b", False),
        ("a/?.[mt]d", "a/b.td", True),
        ("a/[!b].md", "a/b.md", False),
        ("a+b/(c).*", "a+b/(c).md", True),
    ],
)
def test_globs_over_keys(pattern: str, key: str, fits: bool) -> None:
    assert bool(re.fullmatch(glob_pattern(pattern), key)) == fits


def test_the_same_corpus_from_both(bucket: str, folder: Path, run_corpus: Callable[..., Any], tmp_path: Path) -> None:
    shutil.rmtree(folder / "database")
    one, rows = run_corpus({"kind": "jsonl", "path": f"{bucket}/data"})
    other, same = run_corpus({"kind": "jsonl", "path": str(folder / "data")})
    assert rows == same
    assert [file.sha256 for file in one.files if file.path.startswith("data/")] == [
        file.sha256 for file in other.files if file.path.startswith("data/")
    ]
