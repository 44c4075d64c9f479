"""Rows read from a folder are those that ``datasets.load_dataset`` gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UserError
from evals.hub_layout import load_splits, read_rows, split_files

from .conftest import write_benchmarks


def stock_rows(folder: Path, config: str, split: str, cache: Path) -> list[dict[str, object]]:
    from datasets import load_dataset

    return list(load_dataset(str(folder), config, split=split, cache_dir=str(cache)))


def test_json_lines_match_the_stock_loader(tmp_path: Path) -> None:
    root = write_benchmarks(tmp_path / "mirror", ("arc_easy", "truthfulqa_mc1"))
    for dataset, config, split in (
        ("allenai/ai2_arc", "ARC-Easy", "test"),
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
    ):
        ours = load_splits(folder=str(root / dataset), config=config)
        assert list(ours[split]) == stock_rows(root / dataset, config, split, tmp_path / "cache")


@pytest.mark.anchor
def test_real_parquet_files_match_the_stock_loader(anchors: Path, tmp_path: Path) -> None:
    folder = anchors / "benchmarks" / "cais" / "mmlu"
    ours = load_splits(folder=str(folder), config="anatomy")
    assert len(ours["test"]) == 135
    for split in ("test", "dev"):
        assert list(ours[split]) == stock_rows(folder, "anatomy", split, tmp_path / "cache")


def test_a_split_of_several_files_is_read_in_name_order(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n    path: [x-*.jsonl, y.jsonl]\n---\n"
    )
    for name, row in (("x-2", 2), ("x-1", 1), ("y", 3)):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"n": {row}, "text": "a\u2028b"}}\n')
    rows = list(load_splits(folder=str(tmp_path), config="a")["test"])
    assert rows == [{"n": n, "text": "a\u2028b"} for n in (1, 2, 3)]
    assert list(split_files(tmp_path, "a")) == ["test"]


DAMAGED = [("a.jsonl", b'{"n": '), ("a.parquet", b"PAR1nothing"), ("b.jsonl", b"\xff")]


@pytest.mark.parametrize(("name", "content"), DAMAGED)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_rows([path])
    assert caught.value.where == str(path)
