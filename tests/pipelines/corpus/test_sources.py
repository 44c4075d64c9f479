from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import parse_document, validate
from cluster.errors import UserError
from pipelines.corpus import files, installed, stage
from pipelines.corpus.config import CorpusConfig, PythonDocsSource
from pipelines.corpus.documents import Item, clean_unicode, document_id
from pipelines.corpus.installed import merge_by_share
from pipelines.corpus.sources import resolve, source_names


def config(*sources: dict[str, Any]) -> CorpusConfig:
    return CorpusConfig.model_validate({"sources": list(sources)})


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_txt", ".txt").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_a_misspelt_key_of_a_source_is_named_with_its_line() -> None:
    document = parse_document("sources:\n  - kind: text\n    path: a\n    license: MIT\n", "r.yaml")
    with pytest.raises(UserError, match=r"r\.yaml:4: sources\.0\.license: unknown key; did you mean licence\?"):
        validate(CorpusConfig, document)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "txt", "path": "a"}, "python-docs"),
        ({"kind": "text"}, "Field required"),
        ({"kind": "text", "path": "gs://bucket/a"}, "neither a local path nor s3"),
        ({"kind": "text", "path": "a", "encoding": "utf9"}, "no such encoding"),
        ({"kind": "text", "path": "a", "encoding": "rot13"}, "no such encoding of text"),
        ({"kind": "csv", "path": "a", "encoding": "idna"}, "no such encoding of text"),
        ({"kind": "csv", "path": "a", "encoding": "utf-16"}, "convert the file to utf-8"),
        ({"kind": "custom", "function": "mine.pages"}, "String should match"),
        ({"kind": "python-docs", "max_bytes": 0}, "greater than or equal to 1"),
    ],
)
def test_sources_that_cannot_be(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(source)


def test_two_sources_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="two sources are named mine"):
        config({"kind": "text", "path": "a", "name": "mine"}, {"kind": "text", "path": "b", "name": "mine"})


def test_sources_of_one_kind_get_numbers() -> None:
    three = config(
        {"kind": "text", "path": "a"}, {"kind": "text", "path": "b", "name": "text-2"}, {"kind": "text", "path": "c"}
    )
    assert source_names(three) == ["text", "text-2", "text-3"]


def test_identity_does_not_know_the_place(tmp_path: Path) -> None:
    first = write(tmp_path / "here", a_txt="one", sub__b_md="two")
    second = tmp_path / "elsewhere" / "deep"
    shutil.copytree(first, second)
    one, two = (resolve(config({"kind": "text", "path": str(place)})) for place in (first, second))
    assert one == two
    assert str(tmp_path) not in json.dumps(one)


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_identity_knows_the_content(tmp_path: Path, change: str) -> None:
    folder = write(tmp_path, a_txt="one", b_txt="two")
    source = config({"kind": "text", "path": str(folder)})
    before = resolve(source)
    if change == "content":
        (folder / "a.txt").write_text("One")
    elif change == "name":
        (folder / "a.txt").rename(folder / "c.txt")
    else:
        (folder / "c.txt").write_text("three")
    assert resolve(source) != before


def test_worker_counts_stay_out_of_the_identity() -> None:
    from cluster.config import identity_fields

    assert "workers" not in identity_fields(CorpusConfig(workers=3))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.txt", "no such file or folder"),
        ("*.md", "no file matches"),
        ("empty", "the folder holds no .txt or .md or .markdown file"),
        ("dangling/a.txt", "is a link that leads nowhere"),
        ("pipe.txt", "is a pipe and no file"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").mkdir()
    (tmp_path / "dangling" / "a.txt").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=message):
        resolve(config({"kind": "text", "path": str(tmp_path / path)}))


@pytest.mark.parametrize("path", [".", "*", "**/*.txt", "**"])
def test_what_is_no_file_is_quarantined_and_never_opened(
    tmp_path: Path, read_source: Callable[..., Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe would wait for ever, and reading /dev/zero would never end."""
    write(tmp_path, a_txt="one", b_txt="two")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself.txt").symlink_to("itself.txt")
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    (tmp_path / "folder.txt").mkdir()
    source = {"kind": "text", "path": str(tmp_path / path)}
    resolve(config(source))
    found = read_source(**source)
    assert sorted(found.texts) == ["one", "two"]
    assert {(each.where, each.reason, each.what) for each in found.problems} == {
        ("pipe.txt", "no_file", "is a pipe and no file"),
        ("dangling.txt", "no_file", "is a link that leads nowhere: No such file or directory"),
        ("itself.txt", "no_file", "is a link that leads nowhere: Too many levels of symbolic links"),
        ("endless.txt", "no_file", "is a device and no file"),
    }


@pytest.mark.parametrize("path", [".", "**/*.txt", "**"])
def test_links_are_followed_but_not_in_circles(tmp_path: Path, read_source: Callable[..., Any], path: str) -> None:
    elsewhere, place = tmp_path / "elsewhere", tmp_path / "place"
    (place / "x").mkdir(parents=True)
    (place / "y").mkdir()
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.txt").write_text("linked")
    (place / "x" / "b.txt").write_text("plain")
    (place / "y" / "c.txt").write_text("other")
    (place / "data").symlink_to(elsewhere)
    for name in ("first", "second", "third"):
        (place / name).symlink_to(".")
        (place / "x" / name).symlink_to(place)
    (place / "x" / "to_y").symlink_to(place / "y")
    (place / "y" / "to_x").symlink_to(place / "x")
    found = read_source(kind="text", path=str(place / path))
    assert {(each.path, each.text) for each in found.documents} == {
        ("data/deep/a.txt", "linked"),
        ("x/b.txt", "plain"),
        ("x/to_y/c.txt", "other"),
        ("y/c.txt", "other"),
        ("y/to_x/b.txt", "plain"),
    }


def test_names_that_are_no_utf8(tmp_path: Path, run_corpus: Callable[..., Any]) -> None:
    for name in (b"a\xff.txt", b"a\xfe.txt", "naïve\n.txt".encode()):
        (tmp_path / os.fsdecode(name)).write_text(repr(name))
    _, rows = run_corpus({"kind": "text", "path": str(tmp_path)})
    assert {row["path"] for row in rows} == {"a\\xff.txt", "a\\xfe.txt", "naïve\n.txt"}
    assert len({row["id"] for row in rows}) == 3


@pytest.mark.parametrize("when", ["listed", "identified"])
def test_a_file_that_vanishes(
    tmp_path: Path, run_corpus: Callable[..., Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone before it is looked at was never there; later the corpus would not be what its identity says."""
    write(tmp_path, a_txt="one", b_txt="two")
    source = {"kind": "text", "path": str(tmp_path)}
    if when == "listed":
        listed = files.walk

        def walk(root: Path) -> Any:
            found = list(listed(root))
            (tmp_path / "a.txt").unlink(missing_ok=True)
            return found

        monkeypatch.setattr(files, "walk", walk)
        assert [row["text"] for row in run_corpus(source)[1]] == ["two"]
        return
    planned = stage.plan_parts

    def plan(*arguments: Any) -> Any:
        (tmp_path / "a.txt").unlink()
        return planned(*arguments)

    monkeypatch.setattr(stage, "plan_parts", plan)
    with pytest.raises(UserError, match=r"a\.txt: has vanished since it was listed"):
        run_corpus(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a_txt="one")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        resolve(config({"kind": "text", "path": str(tmp_path)}))


def test_a_file_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a_txt="one")
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"a\.txt: cannot be read: Permission denied"):
        resolve(config({"kind": "text", "path": str(tmp_path)}))


def test_python_docs_identity_is_versions_only() -> None:
    found = installed.identity(PythonDocsSource.model_validate({}))
    assert any(package.startswith("pydantic==") for package in found["packages"])
    assert not any(package.startswith("raymill==") for package in found["packages"])
    assert found["packages"] == sorted(found["packages"])
    assert "/" not in json.dumps(found)


def test_python_docs_lists_every_kind_once() -> None:
    items = installed.list_items(PythonDocsSource.model_validate({}))
    assert {item.form for item in items} == {"docstring", "readme", "licence", "topic"}
    paths = [item.path for item in items]
    assert len(paths) == len(set(paths))
    assert not any(path.startswith(("/", "raymill/")) for path in paths)
    assert not any(".tests." in path for path in paths)
    early = {(item.form, item.metadata["package"] == "python") for item in items[:400]}
    assert early == {("docstring", True), ("docstring", False), ("readme", False), ("licence", False), ("topic", True)}


@given(
    sizes=st.dictionaries(
        st.sampled_from(["a", "b", "c"]), st.lists(st.integers(1, 50), min_size=1, max_size=30), min_size=1
    )
)
def test_queues_are_merged_by_share(sizes: dict[str, list[int]]) -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    queues = {
        kind: [Item("text", f"{kind}{index}", "", size, "") for index, size in enumerate(each)]
        for kind, each in sizes.items()
    }
    merged = merge_by_share(queues, shares)
    assert sorted(item.path for item in merged) == sorted(item.path for each in queues.values() for item in each)
    passed = dict.fromkeys(queues, 0)
    left = {kind: len(each) for kind, each in queues.items()}
    for item in merged:
        kind = item.path[0]
        passed[kind] += item.estimated_bytes
        left[kind] -= 1
        for other in queues:
            if left[other]:  # one that still waits is never more than an item behind its share
                assert passed[other] / shares[other] + 50 / shares[other] >= passed[kind] / shares[kind]


def test_document_ids_are_stable() -> None:
    # printf 'python-docs\0python/json' | sha256sum | cut -c1-24
    assert document_id("python-docs", "python/json") == "4174a65f0328a9fc66dc4d2f"


def test_lone_surrogates_are_replaced() -> None:
    assert clean_unicode("a\ud800b\U0001f600") == "a\ufffdb\U0001f600"
