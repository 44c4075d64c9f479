"""The list of licences is that of the lock, and what may not be passed on freely is spoken of."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences_table", ROOT / "docs" / "licences_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> dict[str, tuple[str, str, str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")]
    return {name: (version, licence, where) for name, version, licence, where in cells[1:]}


def test_every_locked_package_is_listed_with_its_version() -> None:
    lines = (ROOT / "requirements" / "cpu.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert {name: version for name, (version, _, _) in rows().items()} == locked


def test_the_page_is_what_the_generator_writes(generator: ModuleType) -> None:
    """Where the environment is the lock's; one of another version has other metadata."""
    from importlib import metadata

    if any(metadata.version(name).partition("+")[0] != row[0].partition("+")[0] for name, row in rows().items()):
        pytest.skip("the installed packages are not the lock's")
    assert generator.page() == PAGE


def test_what_the_cuda_image_holds_besides_is_named(generator: ModuleType) -> None:
    further = generator.only_with_cuda()
    assert {"triton", "flashinfer-python", "vllm"} <= further.keys()
    named = " ".join(PAGE.partition(generator.CUDA_HEAD)[2].split())
    assert named == ", ".join(f"{name} {version}" for name, version in further.items()) + "."


def test_another_locks_licences_are_printed(
    generator: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some.lock").write_text("# packages\npydantic==2.14.0\n")
    generator.main([str(tmp_path / "some.lock")])
    assert capsys.readouterr().out == "| pydantic | 2.14.0 | MIT |\n"


def test_what_is_not_permissive_is_spoken_of() -> None:
    head = PAGE.partition("| package")[0]
    image = {name: licence for name, (_, licence, where) in rows().items() if where == "image"}
    doubtful = [name for name, licence in image.items() if re.search(r"GPL|Proprietary", licence)]
    assert len(doubtful) > 3
    assert [name for name in doubtful if f"*{name}*" not in head] == []
