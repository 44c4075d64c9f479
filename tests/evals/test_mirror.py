"""A mirror is made with checksums, read from a folder or S3, fetched once, and refused where a byte differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InfraError, UserError
from cluster.store import Store, open_store
from evals import mirror as mirror_module
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.mirror import MANIFEST, fetch_mirror, read_manifest
from evals.mirroring import mirror_suites

from .conftest import write_benchmarks

SUITES = ("arc_easy", "truthfulqa_mc1")
DATASETS = ["allenai/ai2_arc", "truthfulqa/truthful_qa"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "source", SUITES)


@pytest.fixture
def url(any_store: Store, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A mirror of the two suites, in a folder and on S3."""
    monkeypatch.setenv("RAYMILL_CACHE", str(tmp_path / "cache"))
    mirror_suites(str(source), any_store.url, SUITES)
    return any_store.url


def opened(url: str, suites: tuple[str, ...] = SUITES) -> Any:
    return open_benchmarks(EvalsConfig(benchmarks=url.removeprefix("file://"), suites=suites))


def test_a_mirror_holds_the_same_questions_as_its_source(url: str, source: Path) -> None:
    found = opened(url)
    assert (found.label, found.sha256) == ("mirror", opened(str(source)).sha256)
    manifest = read_manifest(open_store(url).read(MANIFEST), "")
    assert set(manifest) == {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    again = source.parent / "again"
    mirror_suites(url.removeprefix("file://"), str(again), SUITES[:1])  # a mirror is a source as well, also on S3
    assert {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()} == {
        MANIFEST,
        *(path for path in manifest if path.startswith("allenai/ai2_arc/")),
    }


def test_making_it_again_writes_nothing_but_the_manifest_and_another_suite_is_added(
    any_store: Store, url: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[str] = []
    upload = type(any_store).upload
    monkeypatch.setattr(type(any_store), "upload", lambda s, path, key: (uploaded.append(key), upload(s, path, key)))
    mirror_suites(str(source), url, SUITES)
    assert uploaded == []
    write_benchmarks(source.parent / "more", ("mmlu",))
    mirror_suites(str(source.parent / "more"), url, ("mmlu",))
    assert opened(url).sha256 == opened(str(source)).sha256
    assert len(opened(url, ("mmlu", "arc_easy")).sha256) == 64


def test_a_file_with_another_byte_is_refused_by_name(any_store: Store, url: str) -> None:
    key = "allenai/ai2_arc/ARC-Easy/test-00000.jsonl"
    any_store.write(key, any_store.read(key).replace(b"sun", b"SUN"))
    with pytest.raises(UserError, match=r"has SHA-256 .*manifest\.json says") as caught:
        opened(url)
    assert key in caught.value.where


def test_a_damaged_mirror_is_not_copied_as_if_it_were_right(source: Path, tmp_path: Path) -> None:
    mirror_suites(str(source), str(tmp_path / "mirror"), SUITES)
    next((tmp_path / "mirror").rglob("test-*.jsonl")).write_text("{}")
    with pytest.raises(UserError, match=r"manifest\.json says"):
        mirror_suites(str(tmp_path / "mirror"), str(tmp_path / "copy"), SUITES)
    assert not (tmp_path / "copy").exists()


def test_a_missing_file_is_refused_by_name(any_store: Store, url: str) -> None:
    any_store.delete("truthfulqa/truthful_qa/multiple_choice/validation-00000.jsonl")
    with pytest.raises(UserError, match="missing"):
        opened(url)


def test_from_s3_files_are_copied_once_and_a_damaged_copy_is_replaced(
    s3_store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror_suites(str(source), s3_store.url, SUITES)
    copied: list[str] = []
    download = mirror_module._download
    monkeypatch.setattr(
        mirror_module, "_download", lambda s, path, *rest: (copied.append(path), download(s, path, *rest))
    )
    root = fetch_mirror(s3_store.url, ["allenai/ai2_arc"], tmp_path / "cache")
    assert copied
    assert all(path.startswith("allenai/") for path in copied)
    copied.clear()
    assert fetch_mirror(s3_store.url, ["allenai/ai2_arc"], tmp_path / "cache") == root
    assert copied == []
    file = next(root.rglob("test-*.jsonl"))
    file.write_text("damaged")
    fetch_mirror(s3_store.url, ["allenai/ai2_arc"], tmp_path / "cache")
    assert copied == [file.relative_to(root).as_posix()]


def test_a_bucket_without_a_manifest_is_no_mirror(s3_store: Store) -> None:
    with pytest.raises(UserError, match=r"is not a mirror: it has no manifest\.json"):
        opened(s3_store.url)


def test_a_copy_that_was_cut_off_is_no_mirror_yet(
    s3_store: Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: Store, path: Path, key: str) -> None:
        if "truthful" in key:
            raise OSError("the connection is gone")
        upload(self, path, key)

    upload = type(s3_store).upload
    monkeypatch.setattr(type(s3_store), "upload", cut_off)
    with pytest.raises(OSError, match="gone"):
        mirror_suites(str(source), s3_store.url, SUITES)
    with pytest.raises(UserError, match="is not a mirror"):
        opened(s3_store.url)


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": {"bytes": 1}}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a mirror's manifest"):
        read_manifest(text.encode(), "here")


def test_a_missing_split_is_refused_before_anything_is_copied(source: Path, tmp_path: Path) -> None:
    next(source.rglob("train-*.jsonl")).unlink()
    with pytest.raises(UserError, match="ARC-Easy, split train: its files are missing"):
        mirror_suites(str(source), str(tmp_path / "mirror"), SUITES)
    assert not (tmp_path / "mirror").exists()


def test_from_the_hub_the_configurations_files_are_asked_for_at_the_fixed_revision(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from evals.official import HUB_REVISIONS

    asked: list[tuple[str, str, Any]] = []

    def readme(dataset: str, name: str, *, revision: str, local_dir: Path, **_rest: object) -> None:
        local_dir.mkdir(parents=True)
        shutil.copy(source / dataset / name, local_dir)

    def snapshot(dataset: str, *, revision: str, local_dir: Path, allow_patterns: Any, **_rest: object) -> None:
        asked.append((dataset, revision, allow_patterns))
        shutil.copytree(source / dataset, local_dir, dirs_exist_ok=True)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", readme)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    mirror_suites("hub", str(tmp_path / "mirror"), SUITES)
    assert asked[0] == (
        "allenai/ai2_arc",
        HUB_REVISIONS["allenai/ai2_arc"],
        ["ARC-Easy/test-*.jsonl", "ARC-Easy/train-*.jsonl"],
    )
    assert opened(str(tmp_path / "mirror")).sha256 == opened(str(source)).sha256


def test_without_a_network_the_hub_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with pytest.raises(InfraError, match="cannot be downloaded"):
        mirror_suites("hub", str(tmp_path / "mirror"), ("arc_easy",))


@pytest.mark.anchor
def test_the_real_mirrors_manifest_is_checked(anchors: Path, tmp_path: Path) -> None:
    real = anchors / "benchmarks"
    listed = read_manifest((real / MANIFEST).read_bytes(), "")
    assert len(listed) > 100
    opened(str(real), ("arc_easy", "arc_challenge", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2", "truthfulqa_gen"))
    wrong = json.loads((real / MANIFEST).read_bytes())
    wrong["cais/mmlu/anatomy/test.parquet"]["sha256"] = "0" * 64
    shutil.copytree(real / "cais", tmp_path / "cais")
    (tmp_path / MANIFEST).write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=r"and manifest\.json says 000000000000") as caught:
        opened(str(tmp_path), ("mmlu",))
    assert caught.value.where.endswith("cais/mmlu/anatomy/test.parquet")
